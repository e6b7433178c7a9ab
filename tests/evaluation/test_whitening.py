"""Whitened features against numpy, scipy and scikit-learn; the shrinkage in closed form; masks by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import shrunk_covariance

from mastlib.errors import InputError
from mastlib.evaluation.whitening import Whitening, whiten_subspaces


def features(m: int = 400, d: int = 6, seed: int = 0) -> torch.Tensor:
    """Correlated, of unlike scales, off centre."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64) * torch.logspace(0, 2, d, dtype=torch.float64)
    return torch.randn(m, d, generator=g, dtype=torch.float64) @ mix + 30 * torch.rand(d, generator=g)


def test_without_shrinkage_the_whitened_covariance_is_the_identity():
    whitening = Whitening.of(features(), shrinkage=0)
    u = whitening.apply(features())
    assert u.dtype == torch.float64
    np.testing.assert_allclose(u.mean(dim=0), np.zeros(6), atol=1e-10)
    np.testing.assert_allclose(np.cov(u.numpy(), rowvar=False), np.eye(6), atol=1e-9)
    assert whitening.spread == pytest.approx(6)


def test_distances_are_those_of_mahalanobis():
    x, y = features(), features(m=20, seed=1)
    whitening = Whitening.of(x, shrinkage=0)
    u, v = whitening.apply(x[:20]), whitening.apply(y)
    inverse = np.linalg.inv(np.cov(x.numpy(), rowvar=False))
    expected = [mahalanobis(a, b, inverse) for a, b in zip(x[:20].numpy(), y.numpy(), strict=True)]
    np.testing.assert_allclose((u - v).norm(dim=1), expected, rtol=1e-9)


@pytest.mark.parametrize("shrinkage", [0.01, 0.3, 1.0])
def test_shrinkage_moves_the_covariance_towards_the_mean_eigenvalue(shrinkage):
    x, y = features(), features(m=20, seed=1)
    whitening = Whitening.of(x, shrinkage)
    covariance = np.cov(x.numpy(), rowvar=False)
    inverse = np.linalg.inv(shrunk_covariance(covariance, shrinkage))
    expected = [mahalanobis(a, b, inverse) for a, b in zip(x[:20].numpy(), y.numpy(), strict=True)]
    np.testing.assert_allclose((whitening.apply(x[:20]) - whitening.apply(y)).norm(dim=1), expected, rtol=1e-9)
    assert whitening.spread == pytest.approx(np.trace(inverse @ covariance))


def test_whitened_features_are_the_white_ones_nearest_to_the_features():
    x = features() - features().mean(dim=0)
    u = Whitening.of(features(), 0).apply(features())
    other = torch.linalg.solve_triangular(
        torch.linalg.cholesky(x.T.cov()), x.T, upper=False
    ).T  # Cholesky's are white too
    np.testing.assert_allclose(other.T.cov(), np.eye(6), atol=1e-9)
    assert (x - u).square().sum() < (x - other).square().sum()
    left, _, right = torch.linalg.svd(x.T @ u)  # Procrustes: no rotation of them is nearer
    torch.testing.assert_close(u @ right.T @ left.T, u)


def test_more_dimensions_than_images_are_whitened_with_shrinkage_alone():
    few = features(m=10, d=30)
    assert Whitening.of(few, 0.01).apply(few).isfinite().all()
    with pytest.raises(InputError, match="vary in 9 of 30 directions") as refused:
        Whitening.of(few, 0)
    assert "\n" not in str(refused.value)


def test_a_dimension_that_is_another_ones_sum_is_found_in_single_precision_too():
    x = features(d=3).float()
    with pytest.raises(InputError, match="vary in 3 of 4 directions"):
        Whitening.of(torch.cat([x, x[:, :1] + x[:, 1:2]], dim=1), 0)


@pytest.mark.parametrize(
    "bad, shrinkage, message",
    [
        (torch.full((50, 3), 0.3), 0.5, "the same for every image"),
        (torch.zeros(50, 3), 0.0, "the same for every image"),
        (torch.full((50, 3), torch.nan), 0.5, "NaN or infinite"),
        (torch.rand(1, 3), 0.5, "M at least 2"),
        (torch.rand(4, 3, 2), 0.5, "M at least 2"),
        (torch.rand(50, 3), 1.5, "shrinkage = 1.5"),
        (torch.rand(50, 3), -0.1, "shrinkage = -0.1"),
    ],
)
def test_what_cannot_be_whitened_is_refused_in_one_line(bad, shrinkage, message):
    with pytest.raises(InputError, match=message) as refused:
        Whitening.of(bad, shrinkage)
    assert "\n" not in str(refused.value)


def test_features_of_another_width_are_refused():
    with pytest.raises(InputError, match="a tensor \\(M, 6\\)"):
        Whitening.of(features()).apply(torch.rand(5, 7))


def test_a_mask_of_zeros_and_ones_whitens_the_kept_dimensions_by_themselves():
    x, mask = features(), torch.tensor([1.0, 0, 1, 0, 0, 1])
    masked, alone = Whitening.of(x, 0.1, mask), Whitening.of(x[:, [0, 2, 5]], 0.1)
    torch.testing.assert_close(masked.apply(x), alone.apply(x[:, [0, 2, 5]]))
    assert masked.spread == pytest.approx(alone.spread)
    torch.testing.assert_close(
        masked.apply(x + 7 * (1 - mask)), masked.apply(x)
    )  # what is left out does not matter at all


def test_a_soft_mask_weighs_what_is_white():
    x, mask = features(), torch.tensor([1.0, 0.5, 0.25, 0.1, 0.7, 0.3])
    torch.testing.assert_close(Whitening.of(x, 0, mask).apply(x), Whitening.of(x, 0).apply(x) * mask.double())
    assert Whitening.of(x, 0, mask).spread == pytest.approx(float(mask.double().square().sum()))


@pytest.mark.parametrize("mask", [torch.ones(5), torch.zeros(6), -torch.ones(6), torch.full((6,), torch.nan)])
def test_masks_that_choose_nothing_are_refused(mask):
    with pytest.raises(InputError, match="mask = "):
        Whitening.of(features(), 0.1, mask)


def test_subspaces_come_by_name_beside_the_full_space():
    masks = torch.tensor([[1.0, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0.5]])
    spaces = whiten_subspaces(features(), masks, ["crop", "flip"], 0)
    assert list(spaces) == ["crop", "flip", "full space"]
    assert [space.spread for space in spaces.values()] == pytest.approx([2, 3.25, 6])
    for names in (["crop"], ["crop", "crop"], ["crop", "full space"]):
        with pytest.raises(InputError, match="names = "):
            whiten_subspaces(features(), masks, names)
