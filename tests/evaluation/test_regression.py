from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler

from mastlib.errors import InputError
from mastlib.evaluation.design import L2_GRID
from mastlib.evaluation.regression import kernel_probe, overlap, ridge_probe

SPLIT = np.array(["train"] * 600 + ["val"] * 200 + ["test"] * 400)
FITTED, TEST = slice(0, 800), slice(800, 1200)


def regression(outputs: int = 3, noise: float = 0.5) -> tuple[torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(1200, 30)) * np.geomspace(0.01, 100, 30) + rng.normal(size=30)
    y = (x / x.std(0))[:, :6] @ rng.normal(size=(6, outputs)) + noise * rng.normal(size=(1200, outputs)) + 7
    return torch.tensor(x, dtype=torch.float32), y


@pytest.mark.parametrize("alpha", [1e-6, 1.0, 300.0, 1e5])
def test_ridge_probe_equals_scikit_learns(alpha: float) -> None:
    x, y = regression()
    rows = StandardScaler().fit(x[FITTED].double().numpy()).transform(x.double().numpy())
    predicted = Ridge(alpha=alpha).fit(rows[FITTED], y[FITTED]).predict(rows[TEST])
    about_train = 1 - ((y[TEST] - predicted) ** 2).sum(0) / ((y[TEST] - y[FITTED].mean(0)) ** 2).sum(0)
    result = ridge_probe(x, y, SPLIT, [alpha])
    np.testing.assert_allclose(result.r2, about_train, rtol=1e-6, atol=1e-9)
    assert result.mean_r2 == pytest.approx(about_train.mean())
    assert result.n_test == 400


def test_ridge_chooses_alpha_by_validation_of_the_train_fit() -> None:
    x, y = regression(noise=12.0)
    rows = StandardScaler().fit(x[:600].double().numpy()).transform(x.double().numpy())
    expected = {}
    for alpha in L2_GRID:
        predicted = Ridge(alpha=alpha).fit(rows[:600], y[:600]).predict(rows[600:800])
        residual = ((y[600:800] - predicted) ** 2).sum(0)
        expected[alpha] = (1 - residual / ((y[600:800] - y[:600].mean(0)) ** 2).sum(0)).mean()
    result = ridge_probe(x, y, SPLIT)
    np.testing.assert_allclose(list(result.path.values()), list(expected.values()), rtol=1e-6, atol=1e-9)
    assert result.alpha == max(expected, key=lambda alpha: expected[alpha])
    assert 1e-6 < result.alpha < 1e5  # a choice inside the grid, or this shows nothing
    shuffled = y.copy()
    shuffled[TEST] = np.random.default_rng(0).permutation(y[TEST])
    assert ridge_probe(x, shuffled, SPLIT).alpha == result.alpha


def test_r2_is_about_the_training_mean_not_the_tests() -> None:
    x, y = regression()
    y[TEST] += 50  # the test targets moved: their own mean would hide that the prediction misses by 50
    result = ridge_probe(0 * x, y, SPLIT)  # nothing to learn from: the prediction is the training mean
    np.testing.assert_allclose(result.r2, 0, atol=1e-9)
    constant = np.broadcast_to(y[FITTED].mean(0), y[TEST].shape)
    assert r2_score(y[TEST], constant) < -100  # what a mean of the test targets would have said


def test_ridge_leaves_out_rows_without_target_and_refuses_bad_input() -> None:
    x, y = regression()
    holes = y.copy()
    holes[::5, 1] = np.nan
    keep = np.arange(1200) % 5 != 0
    expected = ridge_probe(x[keep], y[keep], SPLIT[keep])
    np.testing.assert_allclose(ridge_probe(x, holes, SPLIT).r2, expected.r2)
    with pytest.raises(InputError, match="target 0 has one value only"):
        ridge_probe(x, np.ones((1200, 1)), SPLIT)
    with pytest.raises(InputError, match="targets of shape"):
        ridge_probe(x, y[:, 0], SPLIT)
    with pytest.raises(InputError, match="split test"):
        ridge_probe(x, y, ["train", "val"] * 600)
    with pytest.raises(InputError, match="alphas"):
        ridge_probe(x, y, SPLIT, [-1.0])


def bent(noise: float = 0.1) -> tuple[torch.Tensor, np.ndarray]:
    """Targets that bend: ridge sees little of them."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(1200, 3)) * [1, 10, 0.1] + [0, 5, 0]
    z = (x - x.mean(0)) / x.std(0)
    y = np.stack([np.cos(2 * z[:, 0]), z[:, 1] * z[:, 2]], axis=1)
    return torch.tensor(x, dtype=torch.float32), y + noise * rng.normal(size=y.shape) + 3


@pytest.mark.parametrize(("alpha", "gamma"), [(1e-3, 0.1), (1.0, 1.0)])
def test_kernel_probe_equals_scikit_learns(alpha: float, gamma: float) -> None:
    x, y = bent()
    rows = StandardScaler().fit(x[FITTED].double().numpy()).transform(x.double().numpy())
    mean = y[FITTED].mean(0)
    model = KernelRidge(alpha=alpha, kernel="rbf", gamma=gamma).fit(rows[FITTED], y[FITTED] - mean)
    predicted = mean + model.predict(rows[TEST])
    result = kernel_probe(x, y, SPLIT, [alpha], [gamma])
    np.testing.assert_allclose(result.predicted, predicted, atol=1e-5)
    total = ((y[TEST] - mean) ** 2).sum(0)
    np.testing.assert_allclose(result.r2, 1 - ((y[TEST] - predicted) ** 2).sum(0) / total, atol=1e-6)


def test_kernel_probe_sees_what_bends_and_chooses_by_validation() -> None:
    x, y = bent()
    result = kernel_probe(x, y, SPLIT)
    assert result.mean_r2 > 0.9 > 0.2 > ridge_probe(x, y, SPLIT).mean_r2
    assert result.path[result.alpha] == max(result.path.values())
    changed = y.copy()
    changed[TEST] = y[TEST][::-1]
    again = kernel_probe(x, changed, SPLIT)
    assert (again.alpha, again.gamma) == (result.alpha, result.gamma)
    np.testing.assert_allclose(again.predicted, result.predicted)


def test_kernel_probe_fits_on_so_many_images_and_no_more() -> None:
    x, y = bent()
    few = kernel_probe(x, y, SPLIT, [1e-2], [0.3], images=100)
    chosen = np.linspace(0, 799, 100).astype(int)
    other = y.copy()
    other[np.setdiff1d(np.arange(800), chosen)] = 0
    np.testing.assert_allclose(kernel_probe(x, other, SPLIT, [1e-2], [0.3], images=100).predicted, few.predicted)
    assert few.mean_r2 < kernel_probe(x, y, SPLIT, [1e-2], [0.3]).mean_r2


@pytest.mark.parametrize(
    ("change", "message"), [({"images": 7}, "images"), ({"alphas": []}, "alphas"), ({"gammas": [0.0]}, "gammas")]
)
def test_kernel_probe_refuses_in_a_line(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kernel_probe(*bent(), SPLIT, **change)


def test_overlap_is_torchvisions_and_0_for_boxes_turned_inside_out() -> None:
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(size=(2, 200, 2, 2)), axis=2)
    a, b = corners.reshape(2, 200, 4)
    expected = torchvision.ops.box_iou(torch.tensor(a), torch.tensor(b)).diag().numpy()
    np.testing.assert_allclose(overlap(a, b), expected, atol=1e-12)
    assert 0 < expected.mean() < 0.5
    assert overlap(a[:1], a[:1, [2, 3, 0, 1]])[0] == 0
