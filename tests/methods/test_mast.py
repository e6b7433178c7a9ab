"""MAST reduces to VICReg where it must, its switches do what they say, and its uncertainty is the stated likelihood."""

import math

import pytest
import torch

from mastlib import losses
from mastlib.augment.pipeline import Views, audit
from mastlib.augment.presets import get_pipeline
from mastlib.errors import InputError
from mastlib.methods import build_method
from mastlib.methods.base import Encoded
from mastlib.methods.masks import likeness, overlap
from mastlib.methods.mast import MAST
from mastlib.spec import RunSpec

NAMES = ("crop", "flip", "color", "grayscale", "blur")
SMALL = {"batch_size": 15, "images": 64, "epochs": 1, "warmup_epochs": 0, "image_size": 16}
SMALL |= {"backbone": "resnet_small", "stem": "patch", "width": 8, "projector": (32, 32, 24)}
ARM = {"awareness": "mast", "pairing": "isolate_one", "subspace_loss": "A", "uncertainty": "reweight", **SMALL}
SOFT = {"mask_power": 2, "mask_init": 0.9, "mask_diversity": 0.0}  # of masks that are learned
PLAIN = {"uncertainty": "none", "scale_fix": "none"}
N, D, HIDDEN = 15, 24, 32
CHANGED = torch.arange(N) % 5


def spec_of(**changes):
    """Loss A unless `changes` say otherwise, masks that follow the loss, no further term."""
    quiet = {}
    if changes.get("mask_type", "sigmoid") in ("sigmoid", "relu", "hard"):
        quiet |= SOFT if changes.get("mask_type") != "hard" else {**SOFT, "mask_power": 1}
    isolated = changes.get("pairing") not in ("composed", "plain") and changes.get("mask_on") != "representation"
    if changes.get("subspace_loss") == "B" and isolated:
        quiet |= {"outside_weight": 0.0}
        quiet |= {"mask_choice": "loss"} if changes.get("mask_type", "sigmoid") in ("sigmoid", "hard") else {}
    return RunSpec(**{**ARM, **quiet, **changes})


def build(names=NAMES, sizes=(16, 32, HIDDEN, D), **changes):
    """MAST alone, without a host, in float64."""
    torch.manual_seed(0)
    return MAST(spec_of(**changes), names, sizes).double()


def inputs(n=N, d=D, hidden=HIDDEN):
    g = torch.Generator().manual_seed(0)
    z1, z2 = torch.randn(2, n, d, generator=g, dtype=torch.float64)
    h1, h2 = torch.randn(2, n, hidden, generator=g, dtype=torch.float64).relu()
    return z1, z2, h1, h2


def pairs(changed, names=NAMES):
    """Views without images that differ in the augmentation `changed`, -1 for none."""
    of = {
        name: torch.stack([torch.zeros(len(changed), 1), (changed == k)[:, None].float()])
        for k, name in enumerate(names)
    }
    return Views(torch.empty(2, len(changed), 0), of, {}, changed)


def objective(aware, z1, z2, h1, h2, changed=CHANGED, host=None):
    return aware.objective(host, Encoded([], [z1, z2], [h1, h2]), pairs(changed, aware.augmentations), None, 0)


def drawn(pairing, names=None, n=N, **options):
    pipeline = get_pipeline("standard5", 16)
    images = torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return pipeline.views(images, pairing, torch.Generator().manual_seed(2), **options)


def set_masks(aware, values):
    """Sigmoid masks with these values."""
    with torch.no_grad():
        aware.masks.raw.copy_(torch.logit(torch.as_tensor(values, dtype=torch.float64)).expand_as(aware.masks.raw))


# Against VICReg


@pytest.mark.parametrize("pairing", ["isolate_one", "mixed"])
def test_one_full_mask_without_uncertainty_is_vicreg(pairing):
    aware = build(names=("crop",), mask_type="ones", pairing=pairing, **PLAIN)
    z1, z2, h1, h2 = inputs()
    ours = objective(aware, z1, z2, h1, h2, torch.zeros(N, dtype=torch.long))
    theirs = losses.vicreg(z1, z2)
    for part in ("loss", "invariance", "variance", "covariance"):
        assert float(ours[part]) == pytest.approx(float(theirs[part]), rel=1e-12)


def test_loss_a_is_the_sum_over_subspaces_of_vicreg_s_terms():
    """The plain loop: lam s_k over augmentation k's own pairs, variance and covariance of m_k Z over the whole batch."""
    aware = build(**PLAIN)
    z1, z2, h1, h2 = inputs()
    total = 0.0
    for k, mask in enumerate(aware.masks()):
        own = k == CHANGED
        s = losses.invariance(mask * z1[own], mask * z2[own])
        v = (losses.variance(mask * z1) + losses.variance(mask * z2)) / 2
        total += 25 * s + 25 * v + losses.covariance(mask * z1) + losses.covariance(mask * z2)
    assert float(objective(aware, z1, z2, h1, h2)["loss"].detach()) == pytest.approx(
        float(total.detach()) / 5, rel=1e-12
    )


def test_loss_b_takes_variance_and_covariance_of_the_full_space():
    aware, (z1, z2, h1, h2) = build(subspace_loss="B", **PLAIN), inputs()
    parts = objective(aware, z1, z2, h1, h2)
    theirs = losses.vicreg(z1, z2)
    assert float(parts["variance"]) == pytest.approx(float(theirs["variance"]), rel=1e-12)
    assert float(parts["covariance"]) == pytest.approx(float(theirs["covariance"]), rel=1e-12)
    weights = aware.masks()[CHANGED].square()
    weights = weights / weights.mean(dim=1, keepdim=True)
    expected = (weights * (z1 - z2).square()).mean()  # five groups of equal size
    torch.testing.assert_close(parts["invariance"], expected)


@pytest.mark.parametrize("full_weight", [1.0, 0.3])
def test_loss_c_is_a_and_vicreg_of_the_full_space(full_weight):
    same = {"uncertainty": "softmax", "scale_fix": "none"}
    a, c = build(**same), build(subspace_loss="C", full_weight=full_weight, **same)
    given = inputs()
    expected = objective(a, *given)["loss"] + full_weight * losses.vicreg(*given[:2])["loss"]
    torch.testing.assert_close(objective(c, *given)["loss"], expected, rtol=1e-12, atol=0)


def test_groups_weigh_alike_whatever_their_size():
    aware, (z1, z2, h1, h2) = build(**PLAIN), inputs()
    changed = torch.tensor([0] * 10 + [1] * 3 + [3] * 2)
    distances = (aware.masks()[changed].square() * (z1 - z2).square()).mean(dim=1)
    expected = sum(distances[changed == k].mean() for k in (0, 1, 3)) / 3
    torch.testing.assert_close(objective(aware, z1, z2, h1, h2, changed)["invariance"], expected)


# Masks


@pytest.mark.parametrize("count,dim", [(5, 24), (4, 24), (15, 64), (3, 3)])
def test_blocks_are_disjoint_and_cover(count, dim):
    masks = build(NAMES[:1] * count, (16, 8, dim), mask_type="blocks").masks()
    assert masks.shape == (count, dim)
    assert (masks.sum(dim=0) == 1).all()
    assert set(masks.unique().tolist()) <= {0.0, 1.0}
    assert masks.sum(dim=1).max() - masks.sum(dim=1).min() <= 1


def test_random_masks_take_half_each_and_differ():
    masks = build(mask_type="random").masks()
    assert (masks.sum(dim=1) == D // 2).all()
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert len({tuple(row.tolist()) for row in masks}) == len(NAMES)


def test_learned_masks_start_around_mask_init():
    raw = build(sizes=(16, 32, 32, 4000), mask_init=0.7).masks.raw
    assert float(raw.mean().detach()) == pytest.approx(math.log(0.7 / 0.3), abs=0.02)
    relu = build(sizes=(16, 32, 32, 4000), mask_init=0.7, mask_type="relu").masks
    assert float(relu.raw.mean().detach()) == pytest.approx(0.7, abs=0.02)
    assert torch.equal(relu(), relu.raw.clamp(min=0)) and (relu() == 0).any()


def test_hard_masks_are_zeros_and_ones_with_the_gradient_of_the_sigmoid():
    masks = build(mask_type="hard", mask_init=0.5).masks
    made = masks()
    torch.testing.assert_close(made, (masks.raw > 0).double())
    assert 0 < made.mean() < 1
    towards = torch.randn(made.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    (made * towards).sum().backward()
    soft = torch.sigmoid(masks.raw.detach())
    torch.testing.assert_close(masks.raw.grad, towards * soft * (1 - soft))


@pytest.mark.parametrize("changes", [{}, {"mask_sparsity": 0.2}, {"pairing": "composed"}])
def test_hard_masks_move_by_what_turning_a_dimension_on_or_off_changes(changes):
    """Entry by entry: the gradient over the sigmoid's slope is the loss with the dimension less that without it."""
    aware = build(mask_type="hard", mask_init=0.5, **PLAIN, **changes)
    (z1, z2, h1, h2), views = inputs(), drawn("composed") if changes.get("pairing") else pairs(CHANGED)

    def loss():
        return aware.objective(None, Encoded([], [z1, 0.5 * z2], [h1, h2]), views, None, 0)["loss"]

    loss().backward()
    soft = torch.sigmoid(aware.masks.raw.detach())
    slope = aware.masks.raw.grad / (soft * (1 - soft))
    for k, j in ((0, 0), (0, 5), (1, 2), (2, 7), (3, 11), (4, 20), (4, 23)):
        chosen = []
        for sign in (1, -1):
            with torch.no_grad():
                kept = aware.masks.raw[k, j].clone()
                aware.masks.raw[k, j] = sign * kept.abs()
                chosen.append(float(loss()))
                aware.masks.raw[k, j] = kept
        difference = chosen[0] - chosen[1]
        assert float(slope[k, j]) == pytest.approx(difference, rel=1e-6, abs=1e-9)


def test_hard_masks_give_the_terms_of_the_masked_embeddings():
    aware, given = build(mask_type="hard", mask_init=0.5, **PLAIN), inputs()
    parts = objective(aware, *given)
    every = [losses.variance(m * z) for m in aware.masks() for z in given[:2]]
    torch.testing.assert_close(parts["variance"], torch.stack(every).mean())
    every = [losses.covariance(m * z) for m in aware.masks() for z in given[:2]]
    torch.testing.assert_close(parts["covariance"], torch.stack(every).mean() * 2)


@pytest.mark.parametrize("mask_type", ["ones", "blocks", "random"])
def test_fixed_masks_are_no_mask_parameters_and_get_no_gradient(mask_type):
    aware = build(mask_type=mask_type)
    assert list(aware.mask_parameters()) == []
    z1, z2, h1, h2 = inputs()
    objective(aware, z1.requires_grad_(), z2, h1, h2)["loss"].backward()
    assert not aware.masks.raw.requires_grad and aware.masks.raw.grad is None


@pytest.mark.parametrize("mask_type", ["sigmoid", "relu", "hard"])
def test_learned_masks_are_the_mask_parameters_and_get_a_gradient(mask_type):
    aware = build(mask_type=mask_type)
    assert [id(p) for p in aware.mask_parameters()] == [id(aware.masks.raw)]
    objective(aware, *inputs())["loss"].backward()
    assert aware.masks.raw.grad.abs().sum() > 0


@pytest.mark.parametrize("power", [1, 2])
def test_mask_power_says_how_the_invariance_term_is_weighed(power):
    z1, z2, h1, h2 = inputs()
    aware = build(mask_power=power, **PLAIN)
    distances = losses.weighted_mismatch(z1, z2, aware.masks()[CHANGED] ** power)
    expected = losses.mean_per_group(distances, CHANGED, 5)
    torch.testing.assert_close(objective(aware, z1, z2, h1, h2)["invariance"], expected)


def test_likeness_counts_pairs_of_rows_that_choose_alike():
    row = torch.rand(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert float(likeness(row.repeat(4, 1))) == pytest.approx(6)  # four rows, six pairs
    assert float(likeness(torch.eye(3).repeat_interleave(4, dim=1))) == 0  # disjoint rows
    assert float(likeness(torch.stack([row, 1 - row]))) == 0  # opposite rows
    a, b = torch.rand(2, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    cos = max(0.0, float(torch.corrcoef(torch.stack([a, b]))[0, 1]))
    assert float(likeness(torch.stack([a, b]))) == pytest.approx(cos**2)
    torch.testing.assert_close(likeness(torch.stack([a, b]) * 3 + 0.2), likeness(torch.stack([a, b])))


def test_sparsity_and_diversity_are_added_with_their_weights():
    given = inputs()
    none = objective(build(**PLAIN), *given)["loss"]
    aware = build(mask_sparsity=0.2, mask_diversity=7.0, **PLAIN)
    expected = none + 25 * 0.2 * aware.masks().mean() + 7 * likeness(aware.masks())
    torch.testing.assert_close(objective(aware, *given)["loss"], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "delta,mask,power,sparsity,sign",
    [
        (0.2, 0.9, 2, 0.0, -1), (2.0, 0.9, 2, 0.0, 1),  # optimum m = (1 - eta) / (2 delta), at most 1
        (1.0, 0.48, 2, 0.0, -1), (1.0, 0.52, 2, 0.0, 1), (2.0, 0.24, 2, 0.0, -1), (2.0, 0.26, 2, 0.0, 1),
        (1.0, 0.23, 2, 0.5, -1), (1.0, 0.27, 2, 0.5, 1),
        (0.95, 0.2, 1, 0.0, -1), (0.95, 0.9, 1, 0.0, -1), (1.05, 0.2, 1, 0.0, 1), (1.05, 0.9, 1, 0.0, 1),  # on or off
    ],
)  # fmt: skip
def test_mask_gradient_changes_sign_where_the_analysis_says(delta, mask, power, sparsity, sign):
    """One dimension of unit std with mismatch delta: cost lam m^p delta + mu (1 - m) + eta mu m."""
    aware = build(("crop",), (4, 4, 1), mask_power=power, mask_sparsity=sparsity, **PLAIN)
    set_masks(aware, mask)
    z = torch.randn(500, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    z = (z - z.mean()) / z.std()
    parts = objective(aware, z, z + delta**0.5, None, None, torch.zeros(500, dtype=torch.long))
    cost = 25 * (mask**power * delta + 1 - mask + sparsity * mask)
    assert float(parts["loss"].detach()) == pytest.approx(cost, rel=2e-3)
    parts["loss"].backward()
    assert torch.sign(aware.masks.raw.grad).item() == sign


def test_scale_cheat_is_open_without_pin_std_and_closed_with_it():
    """z -> a z with m -> m / a leaves the masked terms alone and lowers the penalty on masks, unless the scale is pinned."""
    z1, z2, h1, h2 = inputs(n=250)
    changed = torch.arange(250) % 5

    def parts(a, scale_fix):
        aware = build(uncertainty="none", scale_fix=scale_fix, mask_sparsity=0.5)
        set_masks(aware, 0.8 / a)
        return {k: float(v.detach()) for k, v in objective(aware, a * z1, a * z2, h1, h2, changed).items()}

    for term in ("invariance", "variance", "covariance"):
        assert parts(4.0, "none")[term] == pytest.approx(parts(1.0, "none")[term], rel=1e-6)
    assert parts(4.0, "none")["loss"] < parts(1.0, "none")["loss"] - 1
    assert parts(4.0, "pin_std")["loss"] > parts(1.0, "pin_std")["loss"]


def test_pin_std_adds_the_excess_of_both_views():
    z1, z2, h1, h2 = inputs()
    without, fixed = build(**PLAIN), build(uncertainty="none")
    excess = (losses.excess_std(3 * z1) + losses.excess_std(z2)) / 2
    expected = objective(without, 3 * z1, z2, h1, h2)["loss"] + 25 * excess
    torch.testing.assert_close(objective(fixed, 3 * z1, z2, h1, h2)["loss"], expected, rtol=1e-12, atol=0)


def test_loss_b_cannot_gain_by_emptying_a_mask():
    """The masks' own scale means nothing: only which dimensions they favour does."""
    for power in (1, 2):
        aware = build(subspace_loss="B", mask_power=power, **PLAIN)
        before = objective(aware, *inputs())["loss"]
        set_masks(aware, aware.masks().detach() * 0.1)
        torch.testing.assert_close(objective(aware, *inputs())["loss"], before, rtol=1e-9, atol=0)


def test_loss_b_of_an_empty_mask_is_finite():
    """Disjoint blocks have an empty product: such pairs claim no dimension, and nothing may become NaN."""
    aware = build(subspace_loss="B", mask_type="blocks", pairing="composed", uncertainty="none")
    views = drawn("composed")
    z1, z2, h1, h2 = inputs()
    z1.requires_grad_()
    loss = aware.objective(None, Encoded([], [z1, z2], [h1, h2]), views, None, 0)["loss"]
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(z1.grad).all()
    learned = build(subspace_loss="B", mask_type="relu", uncertainty="none")
    with torch.no_grad():
        learned.masks.raw[0] = -1.0
    loss = objective(learned, *inputs())["loss"]
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(learned.masks.raw.grad).all()


# Pairings


def test_isolated_pairs_are_weighed_by_the_mask_of_what_changed():
    aware, views = build(), drawn("isolate_one", crop_redrawn=0.0)
    weights = aware.weights(aware.masks(), aware.differing(views))
    torch.testing.assert_close(weights, aware.masks()[views.changed].square())
    assert torch.equal(aware.groups(aware.spoken(views)), views.changed)


def test_a_crop_that_differs_besides_puts_its_mask_on_the_pair_and_the_pair_speaks_of_the_other():
    aware, views = build(), drawn("isolate_one", crop_redrawn=1.0)
    masks = aware.masks()
    others = torch.where(views.changed[:, None] == 0, 1.0, masks[views.changed].square())
    torch.testing.assert_close(aware.weights(masks, aware.differing(views)), masks[0].square() * others)
    assert torch.equal(aware.spoken(views).int().argmax(dim=1), views.changed)


def test_composed_pairs_are_weighed_by_the_product_of_the_masks_of_what_differs():
    aware, views = build(pairing="composed"), drawn("composed")
    differs, masks = audit(views), aware.masks()
    assert torch.equal(aware.spoken(views), differs) and torch.equal(aware.differing(views), differs)
    assert len(differs.unique(dim=0)) > 3
    for row, weights in zip(differs, aware.weights(masks, differs), strict=True):
        expected = torch.ones(D, dtype=torch.float64)
        for k in range(5):
            if row[k]:
                expected = expected * masks[k].square()
        torch.testing.assert_close(weights, expected)
    nothing = torch.zeros(1, 5, dtype=torch.bool)
    assert torch.equal(aware.weights(masks, nothing), torch.ones(1, D, dtype=torch.float64))


def test_mixed_pairs_that_are_not_isolated_are_a_group_of_their_own_in_the_subspace_of_what_differs():
    views = drawn("mixed", isolated=0.6, crop_redrawn=0.0)
    aware = build(pairing="mixed", isolated=0.6, **PLAIN)
    whole = views.changed < 0
    assert 0 < whole.sum() < N
    weights = aware.weights(aware.masks(), aware.differing(views))
    torch.testing.assert_close(weights[~whole], aware.masks()[views.changed[~whole]].square())
    for row, differs in zip(weights[whole], audit(views)[whole], strict=True):
        torch.testing.assert_close(row, aware.masks()[differs].square().prod(dim=0))
    assert not aware.spoken(views)[whole].any()
    z1, z2, h1, h2 = inputs()
    parts = aware.objective(None, Encoded([], [z1, z2], [h1, h2]), views, None, 0)
    groups = [
        views.changed == k for k in views.changed.unique()
    ]  # pairs that are told nothing are a group of their own
    expected = torch.stack([losses.weighted_mismatch(z1, z2, weights)[g].mean() for g in groups]).mean()
    torch.testing.assert_close(parts["invariance"], expected)


def test_plain_pairs_are_pairs_of_every_subspace():
    aware, (z1, z2, h1, h2) = build(pairing="plain", **PLAIN), inputs()
    parts = objective(aware, z1, z2, h1, h2, torch.full((N,), -1))
    expected = torch.stack([losses.invariance(m * z1, m * z2) for m in aware.masks()]).mean()
    torch.testing.assert_close(parts["invariance"], expected)


@pytest.mark.parametrize("mask_on", ["embedding", "representation"])
def test_isolate_each_is_isolate_one_on_the_pairs_of_every_augmentation(mask_on):
    changes = {"mask_on": mask_on, "uncertainty": "gaussian"}
    each, one = built(pairing="isolate_each", **changes), built(**changes)
    one.load_state_dict(each.state_dict())
    views = drawn("isolate_each")
    images = torch.stack([views.images[:1].expand(5, -1, -1, -1, -1).flatten(0, 1), views.images[1:].flatten(0, 1)])
    params = {
        name: torch.stack([rows[:1].expand(5, -1, -1).flatten(0, 1), rows[1:].flatten(0, 1)])
        for name, rows in views.params.items()
    }
    joined = Views(images, params, {}, torch.arange(5).repeat_interleave(N))
    for method in (each, one):
        method.backbone.eval()  # batches of another composition, the same statistics
    ours, theirs = each(views, 0), one(joined, 0)
    for part in ("loss", "invariance", "variance", "covariance", "uncertainty"):
        torch.testing.assert_close(ours[part], theirs[part])


# Masks on the representation


def built(host="vicreg", **changes):
    torch.manual_seed(0)
    small = {**SMALL, **({"queue": 32} if host == "moco" else {}), **changes}
    if host != "vicreg":
        small |= {"subspace_loss": "D", "uncertainty": changes.get("uncertainty", "none")}
    return build_method(spec_of(host=host, **small), NAMES)


@pytest.mark.parametrize("pairing", ["isolate_one", "composed", "mixed"])
def test_on_the_representation_the_projector_reads_masked_features(pairing):
    method, views = built(mask_on="representation", pairing=pairing, uncertainty="none"), drawn(pairing)
    aware = method.aware
    assert aware.masks.raw.shape == (5, method.sizes[0])
    weights = aware.weights(aware.masks(), aware.differing(views))
    encoded = aware.encode(method, views)
    for i in range(2):
        masked = weights * method.features(views.images[i])
        hidden = method.projector.body(masked)
        torch.testing.assert_close(encoded.hidden[i], hidden)
        torch.testing.assert_close(encoded.embeddings[i], method.projector.last(hidden))
    parts = aware.objective(method, encoded, views, None, 0)
    z1, z2 = encoded.embeddings
    groups = aware.groups(aware.spoken(views))
    unmasked = losses.mean_per_group((z1 - z2).square().mean(dim=1), groups, 6)
    torch.testing.assert_close(parts["invariance"], unmasked)
    torch.testing.assert_close(parts["variance"], (losses.variance(z1) + losses.variance(z2)) / 2)
    torch.testing.assert_close(parts["covariance"], losses.covariance(z1) + losses.covariance(z2))
    parts["loss"].backward()
    assert aware.masks.raw.grad.abs().sum() > 0


def test_masks_of_ones_on_the_representation_change_nothing():
    method, views = (
        built(mask_on="representation", mask_type="ones", pairing="composed", **PLAIN),
        drawn("composed"),
    )
    z1, z2 = (method.projector.last(method.projector.body(method.features(images))) for images in views.images)
    torch.testing.assert_close(method(views, 0)["loss"], losses.vicreg(z1, z2)["loss"])


# Loss D: contrastive hosts


@pytest.mark.parametrize("host", ["moco", "simclr"])
def test_loss_d_with_masks_of_ones_is_the_host_s_own_loss(host):
    method, views = built(host, mask_type="ones").eval(), pairs(CHANGED)
    views.images = drawn("isolate_one").images
    encoded = method.aware.encode(method, views)
    ours = method.aware.objective(method, encoded, views, None, 0)["loss"]
    torch.testing.assert_close(ours, method.objective(encoded, None, 0)["loss"])


@pytest.mark.parametrize("mask_type", ["sigmoid", "blocks"])
def test_loss_d_compares_in_each_pair_s_subspace(mask_type):
    """Row i as if the mask of what its views differ in were laid on every embedding of the batch."""
    given = inputs()
    z1, z2 = given[:2]
    simclr = built("simclr", mask_type=mask_type).double()
    rows = [losses.nt_xent(m * z1, m * z2, 0.2) for m in simclr.aware.masks()]
    expected = torch.stack([rows[k][i] for i, k in enumerate(CHANGED)]).mean()
    torch.testing.assert_close(objective(simclr.aware, *given, host=simclr)["loss"], expected)
    moco = built("moco", mask_type=mask_type).double().eval()
    queue = moco.queue.rows
    rows = [losses.info_nce(m * z1, [m * z2], m * queue, 0.2) for m in moco.aware.masks()]
    expected = torch.stack([rows[k][i] for i, k in enumerate(CHANGED)]).mean()
    encoded = Encoded([], [z1], [given[2]], [z2])
    ours = moco.aware.objective(moco, encoded, pairs(CHANGED), None, 0)["loss"]
    torch.testing.assert_close(ours, expected)


def test_loss_d_queues_the_keys_as_moco_does():
    method, (z1, z2, h1, _) = built("moco").double(), inputs()
    method.aware.objective(method, Encoded([], [z1], [h1], [z2]), pairs(CHANGED), None, 0)
    torch.testing.assert_close(method.queue.rows[:N], torch.nn.functional.normalize(z2, dim=1))
    assert int(method.queue.next) == N


@pytest.mark.parametrize("host", ["moco", "simclr"])
def test_loss_d_with_uncertainty_starts_without(host):
    method, views = built(host, uncertainty="softmax").eval(), drawn("isolate_one")
    encoded = method.aware.encode(method, views)
    uncertain = method.aware.objective(method, encoded, views, None, 0)["loss"]
    method.aware.log_variance = None
    certain = method.aware.objective(method, encoded, views, None, 0)["loss"]
    torch.testing.assert_close(uncertain, certain + 0.01 * math.log(2) ** 2)


# Uncertainty


@pytest.mark.parametrize(
    "form,extra",
    [
        ("reweight", 0.0), ("gaussian", 0.0), ("gaussian_dims", 0.0), ("task", 0.0),
        ("softmax", 0.01 * math.log(2) ** 2),  # the pull of r to 0
        ("moments", None),  # adds the mean of the weights: variances of 1/2 and 1/2
    ],
)  # fmt: skip
@pytest.mark.parametrize("pairing", ["isolate_one", "mixed"])
def test_uncertainty_starts_as_no_uncertainty(form, extra, pairing):
    aware, plain = build(uncertainty=form, pairing=pairing), build(uncertainty="none", pairing=pairing)
    changed = torch.where(torch.arange(N) < 12, CHANGED, -1) if pairing == "mixed" else CHANGED
    parts = objective(aware, *inputs(), changed)
    if form == "moments":
        views = pairs(changed)
        spread = aware.weights(aware.masks(), aware.differing(views)).mean(dim=1)
        extra = float(losses.mean_per_group(spread, aware.groups(aware.spoken(views)), 6).detach())
    expected = float(objective(plain, *inputs(), changed)["invariance"].detach()) + extra
    assert float(parts["invariance"].detach()) == pytest.approx(expected, rel=1e-7)
    assert float(parts["uncertainty"]) == pytest.approx(0.5 if form == "softmax" else 1.0)


def test_reweighting_keeps_the_mean_weight_of_every_augmentation_at_one():
    """With equal mismatch everywhere, whatever the uncertainty, the invariance term is that of no uncertainty."""
    aware = build(uncertainty="reweight", mask_type="ones")
    torch.nn.init.normal_(aware.log_variance.weight, std=0.3)
    z1, _, h1, h2 = inputs()
    parts = objective(aware, z1, z1 + 0.7, h1, h2)
    assert float(parts["invariance"].detach()) == pytest.approx(0.49, rel=1e-9)


def test_reweighting_by_hand():
    aware, (z1, z2, h1, h2) = build(uncertainty="reweight"), inputs()
    torch.nn.init.normal_(aware.log_variance.weight, std=0.1)
    r1, r2 = (aware.log_variance(h)[torch.arange(N), CHANGED].detach() for h in (h1, h2))
    tau = r1.exp() + r2.exp()
    weights = aware.masks()[CHANGED].detach().square()
    d = (weights * (z1 - z2).square()).mean(dim=1)
    term, likelihood = 0.0, 0.0
    for k in range(5):
        own = k == CHANGED
        certainty = (1 / tau[own]) / (1 / tau[own]).mean()
        term += float((certainty * d[own]).mean()) / 5
        likelihood += float((d[own] / tau[own] + weights[own].mean(dim=1) * tau[own].log()).mean()) / 5
    parts = objective(aware, z1, z2, h1, h2)
    assert float(parts["invariance"].detach()) == pytest.approx(term, rel=1e-9)
    assert float(parts["likelihood"].detach()) == pytest.approx(likelihood, rel=1e-9)


def test_reweighting_fits_the_variance_without_touching_anything_else():
    aware = build(uncertainty="reweight")
    given = [t.requires_grad_() for t in inputs()]
    objective(aware, *given)["likelihood"].backward()
    assert aware.log_variance.weight.grad.abs().sum() > 0
    assert all(t.grad is None for t in given) and aware.masks.raw.grad is None


def test_reweighting_moves_the_variance_by_its_likelihood_alone():
    aware = build(uncertainty="reweight")
    objective(aware, *inputs())["invariance"].backward()
    assert aware.log_variance.weight.grad is None


@pytest.mark.parametrize("form", ["reweight", "gaussian", "gaussian_dims", "task", "softmax", "moments"])
def test_what_a_subspace_is_asked_and_how_unsure_it_is_are_followed_pair_by_pair(form):
    aware = build(uncertainty=form, mask_type="ones").train()
    z1, z2, h1, h2 = inputs()
    changed = torch.arange(N) % 4  # the last augmentation has no pair in this batch
    parts = objective(aware, z1, z2, h1, h2, changed)
    each = (z1 - z2).square().mean(dim=1)
    expected = [float(each[changed == k].mean()) for k in range(4)] + [float(each.mean())]  # of all, until it has one
    assert [float(parts[f"loss_{name}"]) for name in NAMES] == pytest.approx(expected, rel=1e-9)
    unsure = [0.5 if form == "softmax" else 1.0] * 5  # as it starts
    assert [float(parts[f"uncertainty_{name}"]) for name in NAMES] == pytest.approx(unsure)
    assert not any(parts[f"{what}_{name}"].requires_grad for what in ("loss", "uncertainty") for name in NAMES)
    parts = objective(aware, 3 * z1, 3 * z2, h1, h2)  # nine times as hard; the last augmentation is there
    expected = [0.95 * old + 0.05 * 9 * float(each[k == CHANGED].mean()) for k, old in enumerate(expected[:4])]
    expected.append(9 * float(each[CHANGED == 4].mean()))
    assert [float(parts[f"loss_{name}"]) for name in NAMES] == pytest.approx(expected, rel=1e-9)
    aware.eval()
    parts = objective(aware, 7 * z1, z2, h1, h2)
    assert [float(parts[f"loss_{name}"]) for name in NAMES] == pytest.approx(expected, rel=1e-9)  # evaluation leaves it


@pytest.mark.parametrize("changes", [{"uncertainty": "none"}, {"uncertainty": "reweight", "pairing": "composed"}])
def test_without_an_uncertainty_or_isolated_pairs_there_is_nothing_to_follow(changes):
    aware = build(**changes)
    parts = (
        aware.objective(None, Encoded([], list(inputs()[:2]), list(inputs()[2:])), drawn("composed"), None, 0)
        if ("pairing" in changes)
        else objective(aware, *inputs())
    )
    assert not any(name.startswith(("loss_", "uncertainty_")) for name in parts)


def test_the_clamp_holds_the_pair_variance():
    aware, plain = build(uncertainty="gaussian", mask_type="ones"), build(uncertainty="none", mask_type="ones")
    torch.nn.init.constant_(aware.log_variance.bias, 9.0)  # tau would be 2 e^9
    parts = objective(aware, *inputs())
    without = float(objective(plain, *inputs())["invariance"])
    assert float(parts["uncertainty"]) == pytest.approx(10)
    assert float(parts["invariance"].detach()) == pytest.approx(without / 10 + math.log(10), rel=1e-9)
    torch.nn.init.constant_(aware.log_variance.bias, -9.0)
    parts = objective(aware, *inputs())
    assert float(parts["invariance"].detach()) == pytest.approx(without / 0.1 + math.log(0.1), rel=1e-9)


@pytest.mark.parametrize("form", ["gaussian", "gaussian_dims"])
def test_uncertainty_is_the_gaussian_likelihood_of_the_difference(form):
    """-log N(D; 0, tau) in a full subspace, doubled, per dimension, without its constant."""
    aware = build(uncertainty=form, mask_type="ones")
    torch.nn.init.normal_(aware.log_variance.weight, std=0.05)
    z1, z2, h1, h2 = inputs()
    changed = torch.zeros(N, dtype=torch.long)
    read = [aware.log_variance(h) for h in (h1, h2)]
    tau = sum((r if form == "gaussian_dims" else r[:, :1]).exp() for r in read)
    assert ((tau > 0.1) & (tau < 10)).all()
    normal = torch.distributions.Normal(0.0, tau.sqrt())
    expected = (-2 * normal.log_prob(z1 - z2) - math.log(2 * math.pi)).mean()
    torch.testing.assert_close(objective(aware, z1, z2, h1, h2, changed)["invariance"], expected)


def test_softmax_weights_have_mean_one_in_every_group():
    aware = build(uncertainty="softmax", mask_type="ones")
    torch.nn.init.normal_(aware.log_variance.weight, std=0.3)
    z1, _, h1, h2 = inputs()
    r = (aware.log_variance(h1) + aware.log_variance(h2))[torch.arange(N), CHANGED] / 2
    parts = objective(aware, z1, z1 + 0.7, h1, h2)
    torch.testing.assert_close(parts["invariance"], 0.49 + 0.01 * r.square().mean())


def test_moments_is_the_mean_over_gaussian_embeddings():
    """E |m * (z - z')|^2 / D over z ~ N(z, s^2), z' ~ N(z', s'^2), by drawing them."""
    aware, (z1, z2, h1, h2) = build(uncertainty="moments"), inputs()
    torch.nn.init.normal_(aware.log_variance.weight, std=0.1)
    s1, s2 = ((aware.log_variance(h) / 2).exp().detach() for h in (h1, h2))
    g = torch.Generator().manual_seed(1)
    noise1, noise2 = torch.randn(2, 4000, N, D, generator=g, dtype=torch.float64)
    weights = aware.masks()[CHANGED].detach().square()
    sampled = (weights * ((z1 + s1 * noise1) - (z2 + s2 * noise2)).square()).mean()
    assert float(objective(aware, z1, z2, h1, h2)["invariance"].detach()) == pytest.approx(float(sampled), rel=0.01)


def test_task_uncertainty_by_hand_and_its_best_variance_is_the_mismatch():
    aware, (z1, z2, h1, h2) = build(uncertainty="task", mask_type="ones", scale_fix="none"), inputs()
    d = torch.stack([(z1 - z2)[k == CHANGED].square().mean() for k in range(5)])
    with torch.no_grad():
        aware.task_variance.copy_(torch.linspace(-1, 1, 5))
    tau = aware.task_variance.detach().exp()
    parts = objective(aware, z1, z2, h1, h2)
    torch.testing.assert_close(parts["invariance"].detach(), (d / tau + tau.log()).mean())
    with torch.no_grad():
        aware.task_variance.copy_(d.log())
    objective(aware, z1, z2, h1, h2)["invariance"].backward()
    assert aware.task_variance.grad.abs().max() < 1e-12


@pytest.mark.parametrize("form", ["reweight", "gaussian", "softmax", "gaussian_dims"])
def test_uncertain_pairs_weigh_less(form):
    aware = build(uncertainty=form)
    z1, z2, h1, h2 = inputs()
    h1[0] = h2[0] = 10.0  # image 0 alone is made uncertain
    torch.nn.init.constant_(aware.log_variance.weight, 0.004)
    z1.requires_grad_()
    objective(aware, z1, z2, h1, h2)["invariance"].backward()
    per_image = (z1.grad / (z1.detach() - z2) / aware.masks()[CHANGED].detach().square()).mean(1)
    assert per_image[0] < 0.7 * per_image[5]


@pytest.mark.parametrize("form", ["gaussian", "gaussian_dims", "task"])
def test_log_term_does_not_move_the_masks(form):
    """With equal embeddings only the log term is left; the masks must not see it."""
    aware = build(uncertainty=form, variance_weight=0.0, covariance_weight=0.0, scale_fix="none")
    learned = aware.task_variance if form == "task" else aware.log_variance.weight
    torch.nn.init.normal_(learned, std=0.1)
    z1, _, h1, h2 = inputs()
    objective(aware, z1, z1.clone(), h1, h2)["loss"].backward()
    assert learned.grad.abs().sum() > 0
    assert aware.masks.raw.grad is None or aware.masks.raw.grad.abs().max() == 0


@pytest.mark.parametrize("form", ["none", "gaussian", "gaussian_dims", "softmax", "moments", "task"])
@pytest.mark.parametrize("pairing", ["isolate_one", "mixed"])
def test_gradients_by_finite_differences(form, pairing):
    aware = build(("crop", "flip"), (4, 3, 4), uncertainty=form, pairing=pairing, subspace_loss="C", mask_power=1)
    changed = torch.tensor([0, 1, 0, 1, -1, -1, 0]) if pairing == "mixed" else torch.tensor([0, 1, 0, 1, 1, 0, 0])
    g = torch.Generator().manual_seed(0)
    z1, z2 = torch.randn(2, 7, 4, generator=g, dtype=torch.float64).requires_grad_()
    h1, h2 = torch.randn(2, 7, 3, generator=g, dtype=torch.float64).requires_grad_()
    learned = [aware.task_variance] if form == "task" else []
    if aware.log_variance is not None:
        torch.nn.init.normal_(aware.log_variance.weight, std=0.2)
        learned = [aware.log_variance.weight]
    if form in ("none", "softmax", "moments"):  # elsewhere the log term stops the masks' gradient
        learned.append(aware.masks.raw)

    def loss(z1, z2, h1, h2, *learned):
        return objective(aware, z1, z2, h1, h2, changed)["loss"]

    given = (z1, z2, h1, h2) if form not in ("none", "task") else (z1, z2)
    rest = () if len(given) == 4 else (h1, h2)
    assert torch.autograd.gradcheck(lambda *t: loss(*t[: len(given)], *rest, *t[len(given) :]), (*given, *learned))


# The whole method


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"uncertainty": "gaussian_dims", "mask_type": "relu", "subspace_loss": "B"},
        {"mask_on": "representation", "pairing": "composed", "uncertainty": "task"},
        {"host": "moco"}, {"host": "simclr", "uncertainty": "softmax", "pairing": "mixed"},
    ],
)  # fmt: skip
def test_a_step_reaches_every_trainable_parameter_and_leaves_the_backbone_s_state_alone(changes):
    method = built(**changes)
    views = drawn(changes.get("pairing", "isolate_one"))
    method(views, 0)["loss"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in method.parameters() if p.requires_grad)
    assert method.aware.masks.raw.grad.abs().sum() > 0
    assert not any("mask" in name or "variance" in name for name in method.backbone.state_dict())
    torch.manual_seed(0)
    bare = build_method(RunSpec(**SMALL), NAMES)
    assert list(method.backbone.state_dict()) == list(bare.backbone.state_dict())


@pytest.mark.parametrize(
    "changes,says",
    [
        ({"pairing": "leave_one_out"}, "pairing = 'leave_one_out' cannot be used"),
        ({"subspace_loss": "D", "scale_fix": "pin_std"}, "D with moco and simclr"),
        ({"host": "moco", "subspace_loss": "A"}, "D with moco and simclr"),
        ({"host": "simclr", "subspace_loss": "D", "uncertainty": "gaussian"}, "none or softmax"),
        ({"mask_type": "ones", "mask_sparsity": 0.5}, "no effect"),
        ({"mask_type": "hard", "mask_power": 2}, "no effect"),
        ({"mask_choice": "loss"}, "no effect"),
        ({"outside_weight": 0.5}, "no effect"),
        ({"subspace_loss": "B", "crop_redrawn": 1.0}, "below 1 with mask_choice = 'contrast'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_in_one_line(changes, says):
    with pytest.raises(InputError, match=says) as refusal:
        RunSpec(**{**ARM, **changes})
    assert "\n" not in str(refusal.value)


# Masks that follow the contrast between augmentations


def test_contrast_is_the_running_relative_variation_less_its_mean_over_augmentations():
    aware = build(subspace_loss="B", mask_choice="contrast", mask_margin=0.0, **PLAIN).train()
    g = torch.Generator().manual_seed(3)
    squared = torch.rand(N, aware.varied.shape[1], generator=g, dtype=torch.float64)
    alone = torch.arange(N)[:, None] % 4 == torch.arange(5)  # the last augmentation has no pair in this batch
    expected = aware.varied.clone()
    for k in range(4):
        expected[k] += 0.05 * (squared[alone[:, k]].mean(dim=0) - expected[k])
    preferred = aware.contrast(squared, alone)
    torch.testing.assert_close(aware.varied, expected)
    relative = expected / expected.mean(dim=1, keepdim=True)
    torch.testing.assert_close(preferred, relative - relative.mean(dim=0))
    torch.testing.assert_close(preferred.sum(dim=0), torch.zeros_like(preferred[0]), atol=1e-12, rtol=0)
    aware.eval()
    aware.margin = 0.3
    torch.testing.assert_close(aware.contrast(squared, alone), preferred - 0.3)
    torch.testing.assert_close(aware.varied, expected)  # evaluation leaves it


def test_contrast_compares_pairs_that_differ_in_one_augmentation_alone():
    aware = build(subspace_loss="B", mask_choice="contrast", **PLAIN).train()
    views, (z1, z2, h1, h2) = drawn("isolate_one", crop_redrawn=0.5), inputs()
    alone = audit(views).sum(dim=1) == 1
    assert 3 < alone.sum() < N - 3
    aware.objective(None, Encoded([], [z1, z2], [h1, h2]), views, None, 0)
    expected = torch.ones(5, D, dtype=torch.float64)
    for k in range(5):
        own = alone & (views.changed == k)
        if own.any():
            expected[k] += 0.05 * ((z1 - z2)[own].square().mean(dim=0) - 1)
    torch.testing.assert_close(aware.varied, expected)


def test_masks_follow_the_contrast_alone_and_features_the_masked_loss():
    aware, (z1, z2, h1, h2) = build(subspace_loss="B", mask_choice="contrast", **PLAIN), inputs()
    changed = torch.arange(N) % 5
    z1.requires_grad_()
    parts = objective(aware, z1, z2, h1, h2, changed)
    loss, choice = (
        torch.autograd.grad(parts[name], aware.masks.raw, retain_graph=True)[0] for name in ("loss", "choice")
    )
    torch.testing.assert_close(loss, 25 * choice)
    assert torch.autograd.grad(parts["choice"], z1, allow_unused=True, retain_graph=True) == (None,)
    other = build(subspace_loss="B", **PLAIN)
    other.load_state_dict(aware.state_dict(), strict=False)
    theirs = objective(other, z1, z2, h1, h2, changed)
    torch.testing.assert_close(parts["invariance"], theirs["invariance"])


def test_masks_on_planted_dimensions_pick_those_that_their_own_augmentation_leaves_alone():
    """Dimension block k does not vary under augmentation k: after a while row k holds block k, and lets the others go."""
    changes = {"mask_choice": "contrast", "mask_margin": 0.0}
    aware = build(("crop", "flip", "blur"), (4, 3, 12), subspace_loss="B", **changes, **PLAIN)
    optimizer = torch.optim.Adam([aware.masks.raw], lr=0.05)
    blocks = torch.arange(12) // 4
    g = torch.Generator().manual_seed(0)
    for _ in range(200):
        changed = torch.randint(3, (30,), generator=g)
        z1 = torch.randn(30, 12, generator=g, dtype=torch.float64)
        loud = torch.tensor([1.0, 0.01, 0.3], dtype=torch.float64)[
            changed, None
        ]  # how strong an augmentation is does not matter
        z2 = z1 + loud * (blocks != changed[:, None]) * torch.randn(30, 12, generator=g, dtype=torch.float64)
        optimizer.zero_grad()
        objective(aware, z1, z2, torch.zeros(30, 3).double(), torch.zeros(30, 3).double(), changed)["choice"].backward()
        optimizer.step()
    masks = aware.masks()
    own = blocks == torch.arange(3)[:, None]
    assert (masks[own] > 0.9).all() and (masks[~own] < 0.5).all()


@pytest.mark.parametrize("diversity,alike", [(0.0, True), (5.0, False)])
def test_an_augmentation_listed_twice_gets_like_rows_unless_likeness_is_penalised(diversity, alike):
    """`mask_diversity` asks rows to differ, also those of one augmentation under two names."""
    names = ("crop", "flip", "again")
    changes = {"mask_choice": "contrast", "mask_diversity": diversity, "outside_weight": 0.0}
    aware = build(names, (4, 3, 40), subspace_loss="B", **changes, **PLAIN)
    optimizer = torch.optim.Adam([aware.masks.raw], lr=0.05)
    g = torch.Generator().manual_seed(0)
    loud = torch.rand(2, 40, generator=g, dtype=torch.float64)[[0, 1, 1]]  # flip and again vary the same dimensions
    for _ in range(300):
        changed = torch.randint(3, (60,), generator=g)
        z1 = torch.randn(60, 40, generator=g, dtype=torch.float64)
        z2 = z1 + loud[changed] * torch.randn(60, 40, generator=g, dtype=torch.float64)
        optimizer.zero_grad()
        parts = objective(aware, z1, z2, torch.zeros(60, 3).double(), torch.zeros(60, 3).double(), changed)
        (25 * parts["choice"] + diversity * parts.get("likeness", 0.0)).backward()
        optimizer.step()
    found = overlap(aware.masks().detach())
    assert found[0, 1] < 0 and found[0, 2] < 0
    assert (found[1, 2] > 0.8) == alike


# What is outside a subspace


def test_what_is_outside_a_subspace_is_asked_to_tell_its_pairs_apart():
    """The plain loop, over pairs of which some differ in the crop besides."""
    changes = {"outside_weight": 2.0, "outside_std": 0.9, "mask_choice": "loss"}
    aware, (z1, z2, h1, h2) = build(subspace_loss="B", **changes, **PLAIN), inputs()
    z2 = 0.5 * z1 + 0.5 * z2
    views, masks = drawn("isolate_one", crop_redrawn=0.5), aware.masks()
    differs, total, count = audit(views), 0.0, 0
    for k in range(5):
        own = views.changed == k
        if not own.any():
            continue
        inside = torch.stack([masks[row].prod(dim=0) for row in differs[own]]).mean(dim=0)
        deviation = ((z1 - z2)[own].square().mean(dim=0) / 2 + 1e-4).sqrt()
        total = total + ((1 - inside) * torch.relu(0.9 - deviation)).mean()
        count += 1
    parts = aware.objective(None, Encoded([], [z1, z2], [h1, h2]), views, None, 0)
    torch.testing.assert_close(parts["outside"], total / count)
    quiet = build(subspace_loss="B", **PLAIN)
    quiet.load_state_dict(aware.state_dict())
    without = quiet.objective(None, Encoded([], [z1, z2], [h1, h2]), views, None, 0)["loss"]
    torch.testing.assert_close(parts["loss"], without + 25 * 2 * total / count)


def test_a_full_mask_has_nothing_outside_and_wide_differences_cost_nothing():
    ones = build(subspace_loss="B", mask_type="ones", outside_weight=1.0, **PLAIN)
    assert float(objective(ones, *inputs())["outside"]) == 0
    blocks, (z1, z2, h1, h2) = build(subspace_loss="B", mask_type="blocks", outside_weight=1.0, **PLAIN), inputs()
    assert float(objective(blocks, z1, z1 + 1e-3 * z2, h1, h2)["outside"]) > 0.3
    assert float(objective(blocks, z1, -z1, h1, h2)["outside"]) < 0.05


def test_masks_that_follow_the_contrast_are_held_in_the_outside_term():
    aware, (z1, z2, h1, h2) = build(subspace_loss="B", mask_choice="contrast", outside_weight=1.0, **PLAIN), inputs()
    outside = objective(aware, z1.requires_grad_(), 0.9 * z1 + 0.1 * z2, h1, h2)["outside"]
    assert torch.autograd.grad(outside, z1, retain_graph=True)[0].abs().sum() > 0
    assert torch.autograd.grad(outside, aware.masks.raw, allow_unused=True) == (None,)
