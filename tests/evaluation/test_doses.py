"""Doses of augmentations: what is applied at each, and known effects of them, seen and not seen."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import Tensor

from mastlib.augment import GaussianBlur, HorizontalFlip, Invert, Pipeline, Posterize, Rotate, TranslateX, get_pipeline
from mastlib.errors import InputError
from mastlib.evaluation.doses import Dose, by_count, by_strength, rises

SIDE = 16


def images(n: int) -> Tensor:
    return torch.rand(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(n))


class Recorder(Pipeline):
    """Keeps the parameters that it was asked to apply."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__(pipeline.ops)
        self.asked: list[dict[str, Tensor]] = []

    def apply(self, images: Tensor, params: dict[str, Tensor]) -> Tensor:
        self.asked.append(params)
        return super().apply(images, params)


def test_strength_goes_from_the_identity_to_the_farther_end_of_one_augmentation() -> None:
    pipeline = Recorder(get_pipeline("extended15", SIDE))
    by_strength(lambda views: torch.zeros(len(views), 15), pipeline, images(40), steps=5)
    asked = iter(pipeline.asked)
    for op in pipeline.ops:
        switch = [r.whole and r.high == 1 for r in op.ranges()] == [True]
        for t in (0, 1) if switch else (0, 0.25, 0.5, 0.75, 1):
            params = next(asked)
            for other in pipeline.ops:
                if other is not op:
                    assert torch.equal(params[other.name], other.identity.expand(40, -1))
            for i, r in enumerate(op.ranges()):
                identity, column = float(op.identity[i]), params[op.name][:, i]
                reach = 0 if r.name == "order" else max(abs(r.low - identity), abs(r.high - identity))
                torch.testing.assert_close((column - identity).abs(), torch.full((40,), float(t * reach)))
                if t == 1 and reach:
                    assert ((column == r.low) | (column == r.high)).all()
                    both = math.isclose(identity - r.low, r.high - identity)
                    assert len(column.unique()) == (2 if both else 1)
            if op.name == "crop":  # boxes lie within the frame
                centre, sides = params["crop"][:, :2], params["crop"][:, 2:]
                assert (centre - sides / 2).min() > -1e-6 and (centre + sides / 2).max() < 1 + 1e-6
    assert next(asked, None) is None
    with pytest.raises(InputError, match="steps"):
        by_strength(lambda views: torch.zeros(len(views), 15), pipeline, images(2), steps=1)


def test_integers_are_reached_in_as_many_steps_as_there_are() -> None:
    pipeline = Recorder(Pipeline([Posterize(), Rotate()]))
    for steps, bits in ((4, [8, 7, 5, 4]), (9, [8, 7, 6, 5, 4])):
        pipeline.asked = []
        doses = by_strength(lambda views: torch.zeros(len(views), 2), pipeline, images(3), steps)
        asked = [params["posterize"].unique().tolist() for params in pipeline.asked]
        assert asked[: len(bits)] == [[bit] for bit in bits]
        assert len(doses["posterize"].levels) == len(bits) and len(doses["rotate"].levels) == steps


def test_counts_add_one_operation_at_a_time() -> None:
    pipeline = Recorder(get_pipeline("standard5", SIDE))
    dose = by_count(lambda views: torch.zeros(len(views), 5), pipeline, images(60), seed=2)["operations"]
    assert dose.levels.tolist() == [0, 1, 2, 3, 4, 5] and dose.values.shape == (60, 6, 5)
    on = torch.stack([torch.stack([op.active(p[op.name]) for op in pipeline.ops], dim=1) for p in pipeline.asked])
    assert (on.sum(dim=2) == torch.arange(6)[:, None]).all()
    assert (on[1:] | ~on[:-1]).all()  # what was on stays on
    assert (on[1].float().mean(dim=0) - 0.2).abs().max() < 0.15  # any of them may be the first
    again = Recorder(get_pipeline("standard5", SIDE))
    by_count(lambda views: torch.zeros(len(views), 5), again, images(60), seed=2)
    assert all(
        torch.equal(a[k], b[k]) for a, b in zip(pipeline.asked, again.asked, strict=True) for k in pipeline.names
    )


def test_what_rises_is_seen_to_and_noise_and_constants_are_not() -> None:
    generator = torch.Generator().manual_seed(0)

    def read(views: Tensor) -> Tensor:
        """The share that is black, which grows as the picture moves out; that which is not; nothing; noise."""
        black = (views < 1e-3).all(dim=1).float().mean(dim=(1, 2))
        return torch.stack(
            [black, 1 - black, torch.ones(len(views)), torch.rand(len(views), generator=generator)], dim=1
        )

    pipeline = Pipeline([HorizontalFlip(), TranslateX(), GaussianBlur(), Invert()])
    doses = {
        name: Dose(("black", "lit", "one", "noise"), dose.levels, dose.values)
        for name, dose in by_strength(read, pipeline, images(50), steps=4).items()
    }
    table = rises(doses, shuffles=199).set_index(["varied", "subspace"])
    for subspace, expected in (("black", [1, 1, 1 / 200]), ("lit", [-1, -1, 1 / 200]), ("one", [0, 0, 1])):
        found = table.loc[("translate_x", subspace), ["spearman", "within", "p"]]
        assert found.tolist() == pytest.approx(expected)
    for varied in pipeline.names:
        assert table.loc[(varied, "noise"), "p"] > 0.02 and abs(table.loc[(varied, "noise"), "within"]) < 0.3
    assert table.loc[("flip", "black"), "p"] == 1  # a mirrored image is as black


def dose(noise: float, n: int = 80, s: int = 5) -> Dose:
    """Images of unlike uncertainty, which rises with the level but for `noise`."""
    draw = np.random.default_rng(1)
    levels = np.linspace(0, 1, s)
    values = draw.normal(size=(n, 1, 1)) + levels[None, :, None] + noise * draw.normal(size=(n, s, 2))
    return Dose(("a", "b"), torch.from_numpy(levels), torch.from_numpy(values))


def test_rises_agrees_with_scipy() -> None:
    doses = {"x": dose(0.5)}
    table = rises(doses)
    for k, row in table.iterrows():
        values = doses["x"].values[:, :, k].numpy()
        levels = np.tile(doses["x"].levels.numpy(), (len(values), 1))
        assert row["spearman"] == pytest.approx(stats.spearmanr(levels.ravel(), values.ravel()).statistic)
        assert row["within"] == pytest.approx(
            np.mean([stats.spearmanr(x, y).statistic for x, y in zip(levels, values, strict=True)])
        )
        assert row["p"] == 0.001 and row["n"] == 80


def test_shuffled_levels_have_uniform_p() -> None:
    draw = np.random.default_rng(5)
    found = []
    for i in range(100):
        values = draw.permuted(dose(0.1, n=12).values.numpy(), axis=1)
        found.append(rises({"x": Dose(("a", "b"), torch.linspace(0, 1, 5), torch.from_numpy(values))}, 99, seed=i))
    p = pd.concat(found).query("subspace == 'a'")["p"]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    with pytest.raises(InputError, match="shuffles"):
        rises({"x": dose(0.5)}, shuffles=0)
