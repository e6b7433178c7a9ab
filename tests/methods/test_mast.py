"""MAST reduces to VICReg where it must, its switches do what they say, and its uncertainty is the stated likelihood."""

import pytest
import torch

from mastlib import losses
from mastlib.augment.presets import get_pipeline
from mastlib.errors import InputError
from mastlib.methods import build_method
from mastlib.spec import RunSpec

NAMES = ("crop", "flip", "color", "grayscale", "blur")
SMALL = {"projector": (32, 32, 24), "width": 8, "batch_size": 16, "images": 64, "epochs": 1, "warmup_epochs": 0}
SMALL |= {"backbone": "resnet_small", "stem": "patch", "image_size": 16}


def build(names=NAMES, **changes):
    spec = RunSpec(awareness="mast", pairing="isolate_one", **{**SMALL, **changes})
    torch.manual_seed(0)
    return build_method(spec, names)


def inputs(n=16, d=24, hidden=32):
    g = torch.Generator().manual_seed(0)
    z1, z2 = torch.randn(2, n, d, generator=g)
    h1, h2 = torch.randn(2, n, hidden, generator=g).relu()
    return z1, z2, h1, h2


def test_one_full_mask_without_uncertainty_is_vicreg():
    method = build(names=("crop",), mask_type="ones", uncertainty="none", scale_fix="none").double()
    z1, z2, h1, h2 = (t.double() for t in inputs())
    ours = method.objective(z1, z2, h1, h2, torch.zeros(16, dtype=torch.long))["loss"]
    assert float(ours) == pytest.approx(float(losses.vicreg(z1, z2)["loss"]), rel=1e-12)


@pytest.mark.parametrize("form", ["reweight", "gaussian"])
def test_uncertainty_starts_as_no_uncertainty(form):
    changed = torch.arange(16) % 5
    with_u = build(uncertainty=form).objective(*inputs(), changed)
    without = build(uncertainty="none").objective(*inputs(), changed)
    assert float(with_u["invariance"].detach()) == pytest.approx(float(without["invariance"].detach()), rel=1e-5)
    assert float(with_u["uncertainty"]) == pytest.approx(1.0)


def test_reweighting_keeps_the_mean_weight_of_every_augmentation_at_one():
    """With equal mismatch everywhere, whatever the uncertainty, the invariance term is that of no uncertainty."""
    method, plain = build(uncertainty="reweight", mask_type="ones"), build(uncertainty="none", mask_type="ones")
    torch.nn.init.normal_(method.log_variance.weight, std=0.3)
    z1, _, h1, h2 = inputs()
    changed = torch.arange(16) % 5
    one, other = (m.objective(z1, z1 + 0.7, h1, h2, changed)["invariance"] for m in (method, plain))
    assert float(one) == pytest.approx(float(other), rel=1e-5)


def test_reweighting_fits_the_variance_without_touching_the_features():
    method = build(uncertainty="reweight")
    z1, z2, h1, h2 = inputs()
    h1.requires_grad_()
    z1.requires_grad_()
    likelihood = method.objective(z1, z2, h1, h2, torch.arange(16) % 5)["likelihood"]
    likelihood.backward()
    assert method.log_variance.weight.grad.abs().sum() > 0
    assert h1.grad is None and z1.grad is None and method.mask_logits.grad is None


def test_uncertainty_is_the_gaussian_likelihood_of_the_difference():
    """-log N(D; 0, tau I) restricted to a full subspace, doubled, per dimension, without its constant."""
    method = build(
        uncertainty="gaussian", mask_type="ones", scale_fix="none", variance_weight=0.0, covariance_weight=0.0
    )
    torch.nn.init.normal_(method.log_variance.weight, std=0.05)
    z1, z2, h1, h2 = inputs()
    changed = torch.zeros(16, dtype=torch.long)
    tau = method.log_variance(h1)[:, 0].exp() + method.log_variance(h2)[:, 0].exp()
    normal = torch.distributions.Normal(0.0, tau.sqrt()[:, None])
    expected = (-2 * normal.log_prob(z1 - z2) - torch.log(torch.tensor(2 * torch.pi))).mean()
    ours = method.objective(z1, z2, h1, h2, changed)["invariance"]
    assert float(ours.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("form", ["reweight", "gaussian"])
def test_uncertain_pairs_weigh_less(form):
    method = build(uncertainty=form)
    z1, z2, h1, h2 = inputs()
    h1[0] = h2[0] = 10.0  # image 0 alone is made uncertain
    torch.nn.init.constant_(method.log_variance.weight, 0.004)
    z1.requires_grad_()
    method.objective(z1, z2, h1, h2, torch.arange(16) % 5)["invariance"].backward()
    per_image = (z1.grad / (z1.detach() - z2)).mean(1)
    assert per_image[0] < 0.7 * per_image[5]


def test_log_term_does_not_move_the_masks():
    """With equal embeddings only the log term is left; the masks must not see it."""
    method = build(uncertainty="gaussian", variance_weight=0.0, covariance_weight=0.0, scale_fix="none")
    torch.nn.init.normal_(method.log_variance.weight, std=0.1)
    z1, _, h1, h2 = inputs()
    method.objective(z1, z1.clone(), h1, h2, torch.arange(16) % 5)["loss"].backward()
    assert method.log_variance.weight.grad.abs().sum() > 0
    assert method.mask_logits.grad is None or method.mask_logits.grad.abs().max() == 0


@pytest.mark.parametrize("delta,mask,sign", [(0.2, 0.9, -1), (2.0, 0.9, 1), (1.0, 0.4, -1), (1.0, 0.6, 1)])
def test_mask_gradient_changes_sign_where_the_analysis_says(delta, mask, sign):
    """One dimension of unit std with mismatch delta: cost lam m^2 delta + mu (1 - m); optimum m = 1 / (2 delta), at most 1."""
    m = torch.tensor([[mask]], dtype=torch.float64, requires_grad=True)
    n = 40_000
    z = torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    z = (z - z.mean()) / z.std()
    shift = torch.full_like(z, delta**0.5)
    changed = torch.zeros(n, dtype=torch.long)
    cost = losses.subspace_mismatch(z, z + shift, m**2, changed).mean() + losses.subspace_variance(z, m).mean()
    cost.backward()
    assert torch.sign(m.grad).item() == sign


def test_scale_cheat_is_open_without_pin_std_and_closed_with_it():
    """z -> a z with m -> m / a leaves the masked terms alone and lowers the penalty on masks, unless the scale is pinned."""
    z1, z2, h1, h2 = inputs(n=256)
    changed = torch.arange(256) % 5

    def loss(a, scale_fix):
        method = build(uncertainty="none", scale_fix=scale_fix, mask_sparsity=0.5, covariance_weight=0.0)
        with torch.no_grad():
            masks = torch.full_like(method.mask_logits, 0.8 / a)
            method.mask_logits.copy_(torch.logit(masks))
        return float(method.objective(a * z1, a * z2, h1, h2, changed)["loss"].detach())

    assert loss(4.0, "none") < loss(1.0, "none") - 1
    assert loss(4.0, "pin_std") > loss(1.0, "pin_std")


def test_subspace_loss_b_cannot_gain_by_emptying_a_mask():
    z1, z2, h1, h2 = inputs()
    changed = torch.arange(16) % 5
    method = build(subspace_loss="B", uncertainty="none")
    before = float(method.objective(z1, z2, h1, h2, changed)["invariance"].detach())
    with torch.no_grad():
        method.mask_logits.copy_(torch.logit(torch.sigmoid(method.mask_logits) * 0.1))
    after = float(method.objective(z1, z2, h1, h2, changed)["invariance"].detach())
    assert after == pytest.approx(before, rel=0.3)  # the same selection, a tenth of the weight: no gain


def test_mask_power_one_weighs_by_the_mask_itself():
    z1, z2, h1, h2 = inputs()
    changed = torch.arange(16) % 5
    method = build(mask_power=1, uncertainty="none")
    expected = losses.mean_per_group(losses.subspace_mismatch(z1, z2, method.masks(), changed), changed, 5)
    torch.testing.assert_close(method.objective(z1, z2, h1, h2, changed)["invariance"], expected)


def test_masks_need_known_differences():
    with pytest.raises(InputError, match="pairing"):
        RunSpec(awareness="mast", pairing="independent", **SMALL)


@pytest.mark.parametrize(
    "method,pairing", [("vicreg", "independent"), ("vicreg", "isolate_one"), ("mast", "isolate_one")]
)
def test_a_step_reaches_every_trainable_parameter_and_the_loss_falls(method, pairing):
    spec = RunSpec(method=method, pairing=pairing, **SMALL)
    torch.manual_seed(0)
    net = build_method(spec, NAMES)
    pipeline = get_pipeline("standard5", 16)
    images = torch.randint(0, 256, (32, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    views = pipeline.views(images, pairing=pairing, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-3)
    history = []
    for step in range(15):
        parts = net(views, step)
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
        history.append(float(parts["loss"].detach()))
    assert history[-1] < history[0]
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
    assert not any(name.startswith(("mask", "expander", "log_variance")) for name in net.backbone.state_dict())
