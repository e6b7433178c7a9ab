"""VICReg against two libraries' own, and the per-subspace identity against the plain loop over subspaces."""

import pytest
import torch
from lightly.loss import VICRegLoss as LightlyVICReg
from pytorch_metric_learning.losses import VICRegLoss as PMLVICReg

from mastlib import losses


def embeddings(n: int = 48, d: int = 20, scale: float = 1.3) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    z1 = scale * torch.randn(n, d, generator=g, dtype=torch.float64)
    return z1, z1 + 0.5 * torch.randn(n, d, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (10.0, 3.0, 2.0)])
def test_vicreg_equals_lightly_and_pytorch_metric_learning(scale, weights):
    z1, z2 = embeddings(scale=scale)
    lam, mu, nu = weights
    ours = losses.vicreg(z1, z2, weights)["loss"]
    assert float(ours) == pytest.approx(float(LightlyVICReg(lam, mu, nu)(z1, z2)), rel=1e-9)
    peer = PMLVICReg(invariance_lambda=lam, variance_mu=mu, covariance_v=nu)
    assert float(ours) == pytest.approx(float(peer(z1, ref_emb=z2)), rel=1e-5)


def test_parts_add_up_to_the_loss():
    z1, z2 = embeddings()
    parts = losses.vicreg(z1, z2, (2.0, 3.0, 5.0))
    assert float(parts["loss"]) == pytest.approx(
        float(2 * parts["invariance"] + 3 * parts["variance"] + 5 * parts["covariance"]), rel=1e-12
    )


def test_subspace_terms_equal_the_loop_over_masked_embeddings():
    z, _ = embeddings()
    masks = torch.rand(5, z.shape[1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(
        losses.subspace_variance(z, masks), torch.stack([losses.variance(m * z) for m in masks]), rtol=1e-12, atol=0
    )
    torch.testing.assert_close(
        losses.subspace_covariance(z, masks), torch.stack([losses.covariance(m * z) for m in masks]), rtol=1e-12, atol=0
    )


def test_covariance_of_correlated_dimensions_by_hand():
    z = torch.tensor([[-1.0, -2.0], [1.0, 2.0]], dtype=torch.float64)  # covariance (n - 1): [[2, 4], [4, 8]]
    assert float(losses.covariance(z)) == pytest.approx((16 + 16) / 2)


def test_mean_per_group_weighs_groups_alike_and_skips_absent_ones():
    values = torch.tensor([1.0, 2.0, 3.0, 10.0], requires_grad=True)
    mean = losses.mean_per_group(values, torch.tensor([0, 0, 0, 2]), 4)
    assert float(mean) == pytest.approx((2.0 + 10.0) / 2)
    mean.backward()
    torch.testing.assert_close(values.grad, torch.tensor([1 / 6, 1 / 6, 1 / 6, 1 / 2]))


def test_gradients_by_finite_differences():
    z1, z2 = (z[:9, :4].clone().requires_grad_() for z in embeddings())
    masks = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    changed = torch.tensor([0, 1, 2] * 3)

    def objective(a, b, m):
        s = losses.mean_per_group(losses.weighted_mismatch(a, b, m[changed] ** 2), changed, 3)
        return s + losses.subspace_variance(a, m).sum() + losses.subspace_covariance(b, m).sum() + losses.excess_std(a)

    assert torch.autograd.gradcheck(objective, (z1, z2, masks))
