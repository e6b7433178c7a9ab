"""Every loss against lightly's and pytorch-metric-learning's own, and each shortcut against the plain loop it stands for."""

import pytest
import torch
from lightly.loss import BarlowTwinsLoss, NegativeCosineSimilarity, SwaVLoss
from lightly.loss import NTXentLoss as LightlyNTXent
from lightly.loss import VICRegLoss as LightlyVICReg
from lightly.loss.swav_loss import sinkhorn as lightly_sinkhorn
from pytorch_metric_learning.losses import NTXentLoss as PMLNTXent
from pytorch_metric_learning.losses import SelfSupervisedLoss
from pytorch_metric_learning.losses import VICRegLoss as PMLVICReg
from torch.nn import functional

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
    assert float(mean.detach()) == pytest.approx((2.0 + 10.0) / 2)
    mean.backward()
    torch.testing.assert_close(values.grad, torch.tensor([1 / 6, 1 / 6, 1 / 6, 1 / 2]))


def test_gradients_by_finite_differences():
    z1, z2 = (z[:9, :4].clone().requires_grad_() for z in embeddings())
    masks = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    changed = torch.tensor([0, 1, 2] * 3)

    def objective(a, b, m):
        s = losses.mean_per_group(losses.weighted_mismatch(a, b, (m**2)[changed]), changed, 3)
        return s + losses.subspace_variance(a, m).sum() + losses.subspace_covariance(b, m).sum() + losses.excess_std(a)

    assert torch.autograd.gradcheck(objective, (z1, z2, masks))


# Contrastive losses.


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_equals_lightly_and_pytorch_metric_learning(temperature):
    """Without any factor: both take the mean over the 2N rows, as the mean over N images of the mean over two views."""
    z1, z2 = embeddings(n=12)
    ours = losses.nt_xent(z1, z2, temperature)
    assert ours.shape == (12,)
    assert float(ours.mean()) == pytest.approx(float(LightlyNTXent(temperature)(z1, z2)), rel=1e-9)
    peer = SelfSupervisedLoss(PMLNTXent(temperature=temperature))
    assert float(ours.mean()) == pytest.approx(float(peer(z1, z2)), rel=1e-6)


def test_nt_xent_of_each_image_is_the_mean_of_its_two_views():
    z1, z2 = embeddings(n=6)
    ours = losses.nt_xent(z1, z2, 0.3)
    torch.testing.assert_close(ours, loop_nt_xent(z1, z2, 0.3, torch.ones_like(z1)), rtol=1e-10, atol=0)
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    torch.testing.assert_close(losses.nt_xent(z1[order], z2[order], 0.3), ours[order], rtol=1e-10, atol=0)


def test_nt_xent_of_one_image_is_zero():
    z1, z2 = embeddings(n=1)
    assert float(losses.nt_xent(z1, z2)) == 0  # no negatives: the positive is certain


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_info_nce_equals_lightly_with_a_memory_bank(temperature):
    """Without any factor: lightly's memory bank is the queue, and its loss the mean over rows."""
    query, key = embeddings(n=10)
    queue = 2 * torch.randn(15, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    ours = losses.info_nce(query, [key], queue, temperature)
    assert ours.shape == (10,)
    peer = LightlyNTXent(temperature, memory_bank_size=(15, 20))
    peer.memory_bank.bank = functional.normalize(queue, dim=1)  # lightly takes the bank as it is
    assert float(ours.mean()) == pytest.approx(float(peer(query, key)), rel=1e-9)


def test_info_nce_takes_the_first_key_for_the_positive_and_the_others_for_negatives_of_their_own_image():
    query, key = embeddings(n=7)
    other, queue = torch.randn(2, 7, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    ours = losses.info_nce(query, [key, other], queue, 0.4)
    for i in range(7):
        alone = torch.cat([other[i : i + 1], queue])  # another key acts as a row of the queue that image i alone sees
        expected = losses.info_nce(query[i : i + 1], [key[i : i + 1]], alone, 0.4)
        torch.testing.assert_close(ours[i : i + 1], expected, rtol=1e-10, atol=0)


def test_no_gradient_flows_to_keys_queue_or_target():
    query, key = (z[:5].clone().requires_grad_() for z in embeddings())
    queue = torch.randn(6, 20, dtype=torch.float64, requires_grad=True)
    losses.info_nce(query, [key, key.flip(0)], queue).sum().backward()
    assert key.grad is None and queue.grad is None and query.grad.abs().sum() > 0
    query.grad = None
    losses.negative_cosine(query, key).backward()
    assert key.grad is None and query.grad.abs().sum() > 0


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2])
def test_contrastive_losses_do_not_see_the_length_of_rows(scale):
    z1, z2 = embeddings(n=9)
    queue = torch.randn(6, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(losses.nt_xent(scale * z1, z2), losses.nt_xent(z1, z2), rtol=1e-9, atol=0)
    torch.testing.assert_close(
        losses.info_nce(scale * z1, [z2], queue), losses.info_nce(z1, [z2], scale * queue), rtol=1e-9, atol=0
    )


# Weights: masks sqrt(w), one for each image, laid on everything that is compared with the image.


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.dot(a, b) / (a.norm() * b.norm())


def loop_nt_xent(z1: torch.Tensor, z2: torch.Tensor, temperature: float, weights: torch.Tensor) -> torch.Tensor:
    n, every = len(z1), torch.cat([z1, z2])
    terms = torch.zeros(2 * n, dtype=z1.dtype)
    for i in range(2 * n):
        mask, positive = weights[i % n].sqrt(), (i + n) % (2 * n)
        e = {j: (cosine(mask * every[i], mask * every[j]) / temperature).exp() for j in range(2 * n) if j != i}
        terms[i] = -torch.log(e[positive] / sum(e.values()))
    return (terms[:n] + terms[n:]) / 2


def loop_info_nce(query, keys, queue, temperature, weights):
    terms = []
    for i, mask in enumerate(weights.sqrt()):
        others = [key[i] for key in keys] + list(queue)
        e = torch.stack([(cosine(mask * query[i], mask * other) / temperature).exp() for other in others])
        terms.append(-torch.log(e[0] / e.sum()))
    return torch.stack(terms)


def some_weights(n: int, d: int) -> torch.Tensor:
    """In [0, 1.5), a third of them zero: dimensions that are masked out."""
    g = torch.Generator().manual_seed(7)
    weights = 1.5 * torch.rand(n, d, dtype=torch.float64, generator=g)
    return weights * (torch.rand(n, d, generator=g) > 1 / 3)


def test_weighted_nt_xent_equals_the_loop_over_masked_embeddings():
    z1, z2 = embeddings(n=6)
    weights = some_weights(6, 20)
    ours = losses.nt_xent(z1, z2, 0.3, weights)
    assert ours.shape == (6,)
    torch.testing.assert_close(ours, loop_nt_xent(z1, z2, 0.3, weights), rtol=1e-10, atol=0)
    same = weights[:1].expand(6, -1)  # one mask for all images is the plain loss of masked embeddings
    masked = losses.nt_xent(same.sqrt() * z1, same.sqrt() * z2, 0.3)
    torch.testing.assert_close(losses.nt_xent(z1, z2, 0.3, same), masked, rtol=1e-10, atol=0)


@pytest.mark.parametrize("keys", [1, 3])
def test_weighted_info_nce_equals_the_loop_over_masked_embeddings(keys):
    z1, z2 = embeddings(n=6)
    given = [z2, z2.flip(0), z1.roll(2, 0)][:keys]
    queue = torch.randn(8, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    weights = some_weights(6, 20)
    ours = losses.info_nce(z1, given, queue, 0.3, weights)
    assert ours.shape == (6,)
    torch.testing.assert_close(ours, loop_info_nce(z1, given, queue, 0.3, weights), rtol=1e-10, atol=0)


def test_weights_of_ones_are_no_weights_and_a_common_factor_cancels():
    z1, z2 = embeddings(n=6)
    queue = torch.randn(8, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    ones = torch.ones_like(z1)
    for factor in (1.0, 7.0):
        torch.testing.assert_close(losses.nt_xent(z1, z2, 0.3, factor * ones), losses.nt_xent(z1, z2, 0.3))
        torch.testing.assert_close(
            losses.info_nce(z1, [z2, z2.flip(0)], queue, 0.3, factor * ones),
            losses.info_nce(z1, [z2, z2.flip(0)], queue, 0.3),
        )
    torch.testing.assert_close(losses.cosines(z1, queue, ones), losses.cosines(z1, queue))


def test_weights_of_zeros_leave_loss_and_gradients_finite():
    z1, z2 = (z.clone().requires_grad_() for z in embeddings(n=4))
    weights = torch.zeros_like(z1).requires_grad_()
    loss = losses.nt_xent(z1, z2, 0.3, weights).sum() + losses.info_nce(z1, [z2], z2, 0.3, weights).sum()
    loss.backward()
    assert loss.isfinite() and all(x.grad.isfinite().all() for x in (z1, z2, weights))


def test_weighted_mismatch_is_the_squared_difference_of_masked_embeddings():
    z1, z2 = embeddings(n=6)
    weights = some_weights(6, 20)
    m1, m2 = weights.sqrt() * z1, weights.sqrt() * z2
    expected = torch.stack([losses.invariance(a, b) for a, b in zip(m1, m2, strict=True)])
    torch.testing.assert_close(losses.weighted_mismatch(z1, z2, weights), expected, rtol=1e-12, atol=0)


# The other hosts' losses.


def test_negative_cosine_equals_lightly():
    """Without any factor; SimSiam takes half the sum of both directions of it, BYOL twice their sum plus 4."""
    z1, z2 = embeddings()
    ours = losses.negative_cosine(z1, z2)
    assert float(ours) == pytest.approx(float(NegativeCosineSimilarity()(z1, z2)), rel=1e-12)
    squared = (functional.normalize(z1, dim=1) - functional.normalize(z2, dim=1)).square().sum(dim=1).mean()
    assert float(2 + 2 * ours) == pytest.approx(float(squared), rel=1e-12)  # BYOL's eq. 2


@pytest.mark.parametrize("weight", [0.0051, 0.5])
def test_barlow_twins_equals_lightly(weight):
    """Without any factor: sums over the matrix, not means."""
    z1, z2 = embeddings()
    parts = losses.barlow_twins(3 * z1 + 1, z2, weight)
    expected = float(BarlowTwinsLoss(lambda_param=weight)(3 * z1 + 1, z2))
    assert float(parts["loss"]) == pytest.approx(expected, rel=1e-9)
    assert float(parts["loss"]) == pytest.approx(float(parts["invariance"] + weight * parts["redundancy"]), rel=1e-12)


def test_barlow_twins_is_of_the_views_correlation_matrix():
    z1, z2 = embeddings(n=30, d=5, scale=10.0)
    both = torch.corrcoef(torch.cat([z1, z2], dim=1).T)[:5, 5:]
    parts = losses.barlow_twins(z1, z2)
    off = both - torch.diag(both.diagonal())
    assert float(parts["invariance"]) == pytest.approx(float((1 - both.diagonal()).square().sum()), rel=1e-4, abs=1e-6)
    assert float(parts["redundancy"]) == pytest.approx(float(off.square().sum()), rel=1e-4)


def prototype_scores(n: int = 24, p: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines of two views with prototypes."""
    z1, z2 = (functional.normalize(z, dim=1) for z in embeddings(n))
    prototypes = torch.randn(p, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    prototypes = functional.normalize(prototypes, dim=1)
    return z1 @ prototypes.T, z2 @ prototypes.T


@pytest.mark.parametrize("epsilon,iterations", [(0.05, 3), (0.5, 1), (0.1, 10)])
def test_sinkhorn_equals_lightly(epsilon, iterations):
    scores, _ = prototype_scores()
    ours = losses.sinkhorn(scores, epsilon, iterations)
    torch.testing.assert_close(ours, lightly_sinkhorn(scores, iterations, epsilon), rtol=1e-9, atol=0)


def test_sinkhorn_uses_all_prototypes_alike():
    scores, _ = prototype_scores()
    few, many = losses.sinkhorn(scores), losses.sinkhorn(scores, iterations=500)
    for assignment in (few, many):
        assert (assignment >= 0).all()
        torch.testing.assert_close(assignment.sum(dim=1), torch.ones(24, dtype=torch.float64))
    torch.testing.assert_close(many.sum(dim=0), torch.full((7,), 24 / 7, dtype=torch.float64), rtol=1e-6, atol=0)
    assert not scores.requires_grad and not losses.sinkhorn(scores.requires_grad_()).requires_grad


@pytest.mark.parametrize("shift", [1e3, -1e3])
def test_sinkhorn_does_not_overflow(shift):
    scores, _ = prototype_scores()
    torch.testing.assert_close(losses.sinkhorn(scores + shift), losses.sinkhorn(scores), rtol=1e-6, atol=1e-12)
    assert losses.sinkhorn((scores + shift).float()).isfinite().all()


def test_swav_equals_lightly():
    """Without any factor: both take the mean of the two directions (the paper's eq. 2 is their sum)."""
    scores1, scores2 = prototype_scores()
    expected = SwaVLoss(temperature=0.1, sinkhorn_iterations=3, sinkhorn_epsilon=0.05)([scores1, scores2], [])
    assert float(losses.swav(scores1, scores2)) == pytest.approx(float(expected), rel=1e-9)
    other = SwaVLoss(temperature=0.3, sinkhorn_iterations=5, sinkhorn_epsilon=0.2)([scores1, scores2], [])
    assert float(losses.swav(scores1, scores2, 0.3, 0.2, 5)) == pytest.approx(float(other), rel=1e-9)


def test_swav_gradient_is_that_of_cross_entropy_with_fixed_assignments():
    scores = [s.requires_grad_() for s in prototype_scores()]
    losses.swav(*scores).backward()
    for own, other in (scores, scores[::-1]):  # d/ds of -sum q log softmax(s / T) is (softmax - q) / T
        q = lightly_sinkhorn(other.detach(), 3, 0.05)
        expected = (functional.softmax(own.detach() / 0.1, dim=1) - q) / 0.1 / len(q) / 2
        torch.testing.assert_close(own.grad, expected, rtol=1e-9, atol=1e-14)


A, B, W = torch.randn(3, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    "loss,inputs",
    [
        (lambda a, b: losses.nt_xent(a, b, 0.5), (A, B)),
        (lambda a, b, w: losses.nt_xent(a, b, 0.5, w.square()), (A, B, W)),
        (lambda a: losses.info_nce(a, [B, B.roll(1, 0)], B.flip(0), 0.5), (A,)),
        (lambda a, w: losses.info_nce(a, [B, B.roll(1, 0)], B.flip(0), 0.5, w.square()), (A, W)),
        (lambda a: losses.negative_cosine(a, B), (A,)),
        (lambda a, b: losses.barlow_twins(a, b, 0.1)["loss"], (A, B)),
        (lambda a, b: losses.vicreg(a, b)["loss"], (A, B)),
        (lambda a, b, w: losses.weighted_mismatch(a, b, w.square()), (A, B, W)),
    ],
    ids=["nt_xent", "nt_xent_w", "info_nce", "info_nce_w", "negative_cosine", "barlow", "vicreg", "mismatch"],
)
def test_gradients_of_the_hosts_losses_by_finite_differences(loss, inputs):
    assert torch.autograd.gradcheck(loss, [x.clone().requires_grad_() for x in inputs])


def test_untold_is_the_hinge_of_each_augmentation_s_own_pairs_where_dimensions_are_outside():
    g = torch.Generator().manual_seed(4)
    squared, outside = torch.rand(2, 30, 6, generator=g, dtype=torch.float64)
    spoken = torch.rand(30, 4, generator=g) < 0.3
    spoken[:, 2] = False  # an augmentation without a pair
    expected = []
    for k in (0, 1, 3):
        deviation = (squared[spoken[:, k]].mean(dim=0) / 2 + 1e-4).sqrt()
        expected.append((outside[spoken[:, k]].mean(dim=0) * torch.relu(0.52 - deviation)).mean())
    torch.testing.assert_close(losses.untold(squared, outside, spoken, 0.52), torch.stack(expected).mean())
    assert float(losses.untold(squared, outside, torch.zeros(30, 4, dtype=torch.bool), 0.52)) == 0
    squared.requires_grad_()
    spoken[:, 2] = True
    assert torch.autograd.gradcheck(lambda s: losses.untold(s, outside, spoken, 0.9), squared)
