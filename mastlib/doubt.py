"""What a study's MAST runs are unsure of: strong augmentations, images that are misjudged, pairs that differ much."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from mastlib.data.pools import load_pool, side_of
from mastlib.errors import check_choice
from mastlib.evaluation.calibration import against_error, calibration
from mastlib.evaluation.doses import Dose, by_count, by_strength, curve, rises
from mastlib.evaluation.features import extract
from mastlib.evaluation.nearest import knn_errors
from mastlib.evaluation.probes import logistic_probe
from mastlib.evaluation.subspaces import BATCH, run_pipeline
from mastlib.evaluation.tasks import get_task, task_classes, task_split
from mastlib.evaluation.uncertainty import mismatches, of_run, over_training, uncertainties
from mastlib.methods.mast import TAU_RANGE
from mastlib.runs import Run
from mastlib.stats import summarise
from mastlib.study import Model, Study, tier_grid, tier_pools

TASK = "category"  # whose errors are set against uncertainty
ALL = "all subspaces"  # geometric mean of their uncertainties
STEPS = 5  # strengths, from none to the strongest
OPERATIONS = "operations"  # as `doses.by_count` calls it
SHUFFLES = 99


def strengths(study: Study, arm: str, images: int) -> pd.DataFrame:
    """Uncertainty by strength of each augmentation alone, and by how many are applied ("operations"), of each run of `arm`.

    Rows (arm, seed, varied, subspace, level): mean, low, high, n over `images` of validation concepts (`doses.curve`), and, the
    same at each level, spearman, within and p (`doses.rises`), and `shuffled`: spearman where the levels of each image are.
    """
    return study.measured("strengths", partial(_strengths, images=images), code=__name__, arms=[arm], images=images)


def _strengths(model: Model, images: int) -> pd.DataFrame:
    read, pipeline = of_run(_run(model))
    shown = _validation(model, images)
    doses = by_strength(read, pipeline, shown, STEPS) | by_count(read, pipeline, shown)
    control = rises({name: shuffled(dose) for name, dose in doses.items()}, shuffles=1)
    keys = ["varied", "subspace"]
    tests = rises(doses, SHUFFLES).drop(columns="n")
    control = control.rename(columns={"spearman": "shuffled"})[[*keys, "shuffled"]]
    return curve(doses).merge(tests, on=keys).merge(control, on=keys)


def by_level(found: pd.DataFrame) -> pd.DataFrame:
    """`strengths`, over what the clean images have: columns varied, whose, x, mean, low, high, n, over seeds.

    whose: "own subspace" of the augmentation that is varied, or the mean of "the other subspaces".
    """
    keys = ["seed", "varied", "subspace"]
    clean = found.sort_values("level").groupby(keys)["mean"].transform("first")
    whose = np.where(found["varied"] == found["subspace"], "own subspace", "the other subspaces")
    ratios = found.assign(value=found["mean"] / clean, whose=whose, x=found["level"])
    each = ratios.groupby(["varied", "whose", "x", "seed"], sort=False)["value"].mean().reset_index()
    return summarise(each, ["varied", "whose", "x"])


def shuffled(dose: Dose, seed: int = 0) -> Dose:
    """The dose with each image's levels in a random order of its own: nothing is left to find, whatever an image is like."""
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(len(dose.levels)), (len(dose.values), 1)), axis=1)
    index = torch.from_numpy(order)[..., None].expand_as(dose.values)
    return Dose(dose.names, dose.levels, dose.values.gather(1, index))


def errors(study: Study, arm: str, tier: str, bins: int = 10) -> pd.DataFrame:
    """Uncertainty of clean test images against errors in TASK: of their nearest neighbour ("neighbours"), of a probe ("probe").

    Rows (arm, seed, error, augmentation, bin) of `calibration.against_error`: uncertainty, wrong, low, high, n; and, the same in
    each bin, spearman and auroc. augmentation: whose subspace is unsure, and ALL. Neighbours are images that probes are fitted on.
    """
    return study.measured("doubt_errors", partial(_errors, tier=tier, bins=bins), code=__name__, arms=[arm],
                          tier=tier, bins=bins)  # fmt: skip


def _errors(model: Model, tier: str, bins: int) -> pd.DataFrame:
    run, task = _run(model), get_task(TASK)
    pool = tier_pools(tier, model.spec.image_size, [TASK])[task.pool]
    labels, split = task_classes(task, pool), task_split(task, pool)
    features = extract(model.backbone(), pool.images)
    probe = logistic_probe(features, labels, split, tier_grid(tier), task.metric)
    near = knn_errors(features, labels, np.isin(split.astype(str), ("train", "val")))[probe.rows]
    wrong = {"neighbours": near, "probe": (probe.predicted != probe.truth).astype(float)}
    read = uncertainties(run, pool.images[torch.from_numpy(probe.rows)]).double()
    columns = dict(zip(run.info["augmentations"], read.unbind(dim=1), strict=True)) | {ALL: read.log().mean(dim=1)}
    parts = []
    for error, values in wrong.items():
        for name, column in columns.items():
            found = against_error(column, values, bins)
            table = found.curve.rename(columns={"error": "wrong"}).rename_axis("bin").reset_index()
            parts.append(table.assign(error=error, augmentation=name, spearman=found.spearman, auroc=found.auroc))
    return pd.concat(parts, ignore_index=True)


def pairs(study: Study, arm: str, images: int, bins: int = 8) -> pd.DataFrame:
    """Predicted variance of pairs against their squared difference, augmentation by augmentation (`uncertainty.mismatches`).

    Rows (arm, seed, augmentation, bin) of `calibration.calibration`: predicted, observed, low, high, n; and, the same in each bin,
    slope, ratio, ence, spearman of the two, the share of pairs whose prediction is `bounded` by TAU_RANGE, and the means over all
    pairs, mean_predicted and mean_observed.
    """
    return study.measured("doubt_pairs", partial(_pairs, images=images, bins=bins), code=__name__, arms=[arm],
                          images=images, bins=bins)  # fmt: skip


def _pairs(model: Model, images: int, bins: int) -> pd.DataFrame:
    predicted, observed = mismatches(_run(model), _validation(model, images))
    low, high = TAU_RANGE
    parts = []
    for k, name in enumerate(_run(model).info["augmentations"]):
        p, o = predicted[:, k].numpy(), observed[:, k].numpy()
        fit = calibration(p, o, bins)
        parts.append(
            fit.curve.rename_axis("bin").reset_index().assign(
                augmentation=name, slope=fit.slope, ratio=fit.ratio, ence=fit.ence,
                spearman=stats.spearmanr(p, o).statistic if np.ptp(p) > 0 and np.ptp(o) > 0 else np.nan,
                bounded=np.mean((p < low * (1 + 1e-6)) | (p > high * (1 - 1e-6))),
                mean_predicted=p.mean(), mean_observed=o.mean(),
            )
        )  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def training(study: Study, arm: str) -> pd.DataFrame:
    """Loss and uncertainty of each augmentation's pairs over epochs (`uncertainty.over_training`), of each run of `arm`."""
    return study.measured("doubt_training", _training, code=__name__, arms=[arm])


def _training(model: Model) -> pd.DataFrame:
    return over_training(_run(model))


def gallery(study: Study, arm: str, augmentation: str, images: int, count: int) -> pd.DataFrame:
    """The `count` surest and least sure pairs that differ in `augmentation` alone, of `images` of validation concepts, of each run.

    Rows (arm, seed, kind, place, image, uncertainty): kind "surest" or "least sure", place 0 the most so, image the row of
    `gallery_views`, uncertainty exp(r) + exp(r') of the pair in that augmentation's subspace. Raises InputError for one that the
    run has not.
    """
    return study.measured("doubt_gallery", partial(_gallery, augmentation=augmentation, images=images, count=count),
                          code=__name__, arms=[arm], augmentation=augmentation, images=images, count=count)  # fmt: skip


def _gallery(model: Model, augmentation: str, images: int, count: int) -> pd.DataFrame:
    views = gallery_views(_run(model), augmentation, images)
    k = run_pipeline(_run(model)).names.index(augmentation)
    both = sum(uncertainties(_run(model), one)[:, k].double() for one in views)
    assert isinstance(both, Tensor)
    order = both.argsort(stable=True)
    rows = [
        (kind, place, int(image), float(both[image]))
        for kind, chosen in (("surest", order), ("least sure", order.flip(0)))
        for place, image in enumerate(chosen[:count])
    ]
    return pd.DataFrame(rows, columns=["kind", "place", "image", "uncertainty"])


def gallery_views(run: Run, augmentation: str, images: int, seed: int = 0) -> Tensor:
    """Pairs of views `(2, N, 3, S, S)` of `images` of validation concepts that differ in `augmentation` alone, always the same."""
    pipeline = run_pipeline(run)
    check_choice("augmentation", augmentation, pipeline.names)
    alone = {name: float(name == augmentation) for name in pipeline.names}
    draw = torch.Generator().manual_seed(seed)
    shown = _validation(Model("", run.spec.seed, run.spec, run), images)
    parts = [
        pipeline.views(part, "isolate_one", draw, crop_redrawn=0.0, weights=alone).images for part in shown.split(BATCH)
    ]
    return torch.cat(parts, dim=1)


def _validation(model: Model, count: int) -> Tensor:
    pool = load_pool("objects", model.spec.image_size)
    return pool.images[torch.from_numpy(side_of(pool, "val", count))]


def _run(model: Model) -> Run:
    assert model.run is not None  # random weights have no uncertainty, and no caller asks for theirs
    return model.run
