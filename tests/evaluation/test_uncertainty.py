"""Uncertainty read from a run as its loss has it, and through all that is asked of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mastlib.augment import get_pipeline
from mastlib.errors import InputError
from mastlib.evaluation.calibration import against_error, calibration
from mastlib.evaluation.doses import by_count, by_strength, curve, rises
from mastlib.evaluation.masks import read_masks
from mastlib.evaluation.nearest import knn_errors
from mastlib.evaluation.subspaces import trained_method
from mastlib.evaluation.uncertainty import PER_IMAGE, PREDICTED, mismatches, of_run, over_training, uncertainties
from mastlib.methods.mast import TAU_RANGE
from mastlib.runs import Run
from mastlib.spec import RunSpec
from mastlib.training import fit

SIDE = 16
TINY = {
    "backbone": "resnet_small", "stem": "patch", "width": 4, "projector": (16, 16, 10), "image_size": SIDE, "images": 128,
    "batch_size": 32, "epochs": 1, "warmup_epochs": 0, "optimizer": "adamw", "lr": 0.1, "augmentations": "standard5",
    "precision": "fp32", "memory_format": "contiguous", "compile": "off",
}  # fmt: skip
MAST = {"awareness": "mast", "pairing": "isolate_one"}


def images(n: int = 24) -> Tensor:
    return torch.rand(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(n))


def trained(**changes: object) -> Run:
    return fit(RunSpec(**{**TINY, **MAST, **changes}), progress=False)


@pytest.mark.parametrize("form", ["reweight", "softmax", "gaussian_dims", "moments"])
def test_uncertainties_are_those_of_the_head(form: str) -> None:
    run = trained(uncertainty=form)
    method, views = trained_method(run), images()
    with torch.no_grad():
        read = method.aware.log_variance(method.projector(method.features(views), None)[1]).exp()
    if form in ("gaussian_dims", "moments"):
        masks = read_masks(run)
        read = torch.stack([(read * row).sum(dim=1) / row.sum() for row in masks], dim=1)
    found = uncertainties(run, views)
    assert found.shape == (24, 5)
    torch.testing.assert_close(found, read)
    assert (found.std(dim=0) > 1e-4).all()
    torch.testing.assert_close(uncertainties(run, (views * 255).byte()), found, atol=0.05, rtol=0.05)


def test_uncertainty_of_a_masked_representation_is_read_through_each_mask() -> None:
    run = trained(mask_on="representation", uncertainty="gaussian", mask_power=2)
    method, views, masks = trained_method(run), images(), read_masks(run)
    with torch.no_grad():
        features = method.features(views)
        for k in range(5):
            hidden = method.projector.body(features * masks[k] ** 2)
            expected = method.aware.log_variance(hidden)[:, k].exp()
            torch.testing.assert_close(uncertainties(run, views)[:, k], expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"uncertainty": "gaussian", "mask_type": "blocks", "subspace_loss": "A"},
        {"uncertainty": "gaussian"},
        {"uncertainty": "gaussian_dims", "mask_type": "ones", "pairing": "isolate_each"},
        {"uncertainty": "gaussian", "mask_on": "representation"},
        {"uncertainty": "gaussian", "lr": 10.0},
    ],
)
def test_predicted_and_observed_are_those_of_the_loss(changes: dict[str, object]) -> None:
    run = trained(**changes)
    predicted, observed = mismatches(run, images(), seed=4)
    assert predicted.shape == observed.shape == (24, 5) and predicted.dtype == torch.float64
    method, pipeline = trained_method(run), get_pipeline("standard5", SIDE)
    method.aware.pairing = "isolate_one"
    masks = method.aware.masks()
    low, high = TAU_RANGE
    assert predicted.min() >= low - 1e-6 and predicted.max() <= high + 1e-6
    if "lr" in changes:  # far enough to reach the bounds
        assert (predicted.min() - low).abs() < 1e-6 or (predicted.max() - high).abs() < 1e-6
    for k, name in enumerate(pipeline.names):
        alone = {other: float(other == name) for other in pipeline.names}
        views = pipeline.views(
            images(), "isolate_one", torch.Generator().manual_seed(4), run.spec.crop_redrawn, weights=alone
        )
        with torch.no_grad():
            parts = method(views, 0)
            spread = method.aware.weights(masks, method.aware.differing(views)).mean(dim=1).double()
        assert float(parts["uncertainty"]) == pytest.approx(float(predicted[:, k].mean()), rel=1e-5)
        if changes["uncertainty"] == "gaussian":
            if "mask_on" in changes:
                spread = torch.ones(24).double()
            likelihood = spread * (observed[:, k] / predicted[:, k] + predicted[:, k].log())
            assert float(parts["invariance"]) == pytest.approx(float(likelihood.mean()), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("form", ["none", "task"])
def test_runs_without_an_uncertainty_of_each_image_are_refused(form: str) -> None:
    run = trained(uncertainty=form)
    for ask in (lambda: of_run(run), lambda: uncertainties(run, images()), lambda: mismatches(run, images())):
        with pytest.raises(InputError, match=f"uncertainty = '{form}'"):
            ask()


def test_other_methods_and_uncertainties_that_predict_no_variance_are_refused() -> None:
    with pytest.raises(InputError, match="a MAST run"):
        of_run(fit(RunSpec(**TINY), progress=False))
    assert set(PREDICTED) < set(PER_IMAGE)
    with pytest.raises(InputError, match="uncertainty = 'softmax'"):
        mismatches(trained(uncertainty="softmax"), images())
    with pytest.raises(InputError, match="isolated pairs and an uncertainty"):
        over_training(trained(uncertainty="none"))


def test_a_run_goes_through_end_to_end() -> None:
    run = trained(uncertainty="reweight")
    read, pipeline = of_run(run)
    doses = by_strength(read, pipeline, images(), steps=3) | by_count(read, pipeline, images())
    table, tests = curve(doses), rises(doses, shuffles=50)
    assert list(doses) == [*pipeline.names, "operations"]
    assert len(table) == 5 * (3 * 3 + 2 + 2 + 6)  # crop, color, blur; flip and grayscale; none to five operations
    assert len(tests) == 6 * 5 and tests["spearman"].abs().max() <= 1 and tests["p"].between(1 / 51, 1).all()
    clean = uncertainties(run, images()).double()
    for dose in doses.values():
        torch.testing.assert_close(dose.values[:, 0], clean, atol=1e-6, rtol=1e-6)
    first = doses["crop"].values[:, 1, 2].numpy()
    assert table.loc[5, ["varied", "subspace", "level"]].tolist()[0] == "crop"
    row = table[(table["varied"] == "crop") & (table["subspace"] == "color") & (table["level"] == 0.5)].iloc[0]
    assert row["mean"] == pytest.approx(first.mean()) and row["n"] == 24
    fit_of_variance = calibration(*(columns[:, 0] for columns in mismatches(run, images())), bins=4)
    assert fit_of_variance.n == 24 and fit_of_variance.ratio > 0
    wrong = knn_errors(images().flatten(1), np.arange(24) % 2)
    assert against_error(clean[:, 0], wrong, bins=4).n == 24
    followed = over_training(run)
    assert list(followed.columns) == ["augmentation", "epoch", "loss", "uncertainty"]
    assert list(followed["augmentation"].unique()) == list(pipeline.names)
    assert len(followed) == len(pipeline.names) * run.spec.epochs and (followed[["loss", "uncertainty"]] > 0).all(
        axis=None
    )
    log = run.metrics().set_index("epoch")
    crop = followed[followed["augmentation"] == "crop"].set_index("epoch")
    assert crop["loss"].equals(log["loss_crop"].rename("loss"))
