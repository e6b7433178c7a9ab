"""Two cues are told apart by what sees one of them alone, and a larger badge's effect is the paired difference."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from mastlib.data.pools import load_pool
from mastlib.errors import InputError
from mastlib.evaluation.suppression import suppression, trade_off
from mastlib.runs import RunStore
from mastlib.spec import RunSpec
from mastlib.training import fit
from mastlib.transfer import backbone_of

GRID = (1e-2, 1.0, 1e2)
BADGE, SIZE = 0.4, 32


@pytest.fixture(scope="module")
def pool():
    return load_pool("badged", SIZE, 2500, badge=BADGE)


class Sighted(torch.nn.Module):
    """Pixels of the badge alone, or of all but the badge, of the pool's images in their order."""

    def __init__(self, pool, badge):
        super().__init__()
        x, y = (torch.tensor(pool.table[name].to_numpy()) for name in ("badge_x", "badge_y"))
        self.x, self.y, self.badge, self.seen = x, y, badge, 0

    def forward(self, images):
        x, y = (centre[self.seen : self.seen + len(images)] for centre in (self.x, self.y))
        self.seen += len(images)
        if self.badge:
            inner = 0.85 * BADGE  # not the object that shows behind the rounded corners
            theta = torch.zeros(len(images), 2, 3)
            theta[:, 0, 0] = theta[:, 1, 1] = inner
            theta[:, 0, 2], theta[:, 1, 2] = 2 * x - 1, 2 * y - 1
            grid = F.affine_grid(theta, [len(images), 3, 10, 10], align_corners=False)
            return F.grid_sample(images.contiguous(), grid, align_corners=False).flatten(1)
        centre = (torch.arange(SIZE) + 0.5) / SIZE
        reach = BADGE / 2 + 1 / SIZE
        near = [(centre - at[:, None]).abs() < reach for at in (y, x)]
        hidden = near[0][:, :, None] & near[1][:, None]
        return F.avg_pool2d(images * ~hidden[:, None], 4).flatten(1)


def test_each_cue_is_read_where_it_is_and_nowhere_else(pool):
    badge, rest = (suppression(Sighted(pool, seen), pool, GRID).set_index("cue") for seen in (True, False))
    assert badge.loc["digit", "value"] > 0.85
    assert badge.loc["category", "value"] < badge.loc["category", "chance"] + 0.06
    assert abs(rest.loc["digit", "value"] - 0.1) < 0.05
    assert rest.loc["category", "value"] > rest.loc["category", "chance"] + 0.08


def test_a_row_says_size_metric_chance_and_test_images(pool):
    rows = suppression(Sighted(pool, True), pool, GRID).set_index("cue")
    assert set(rows["badge"]) == {BADGE} and list(rows["metric"]) == ["mean_recall", "accuracy"]
    test = pool.table[pool.table["split"] == "test"]
    rest = pool.table[pool.table["split"] != "test"]
    assert rows.loc["category", "n"] == test["category"].notna().sum() and rows.loc["digit", "n"] == len(test)
    assert rows.loc["category", "chance"] == pytest.approx(1 / test["category"].nunique())
    assert rows.loc["digit", "chance"] == (test["digit"] == rest["digit"].value_counts().idxmax()).mean()


def test_other_pools_are_refused():
    with pytest.raises(InputError, match="pool = 'objects' cannot be used; accepted: badged"):
        suppression(torch.nn.Flatten(), load_pool("objects", 16, 50))


def rows_of(values):
    """Rows of arm -> cue -> badge -> values by seed."""
    return pd.DataFrame(
        [
            (arm, seed, badge, cue, value)
            for arm, cues in values.items()
            for cue, badges in cues.items()
            for badge, of in badges.items()
            for seed, value in enumerate(of)
        ],
        columns=["arm", "seed", "badge", "cue", "value"],
    )


PLAIN = {"category": {0.1: [0.5, 0.6, 0.55], 0.2: [0, 0, 0], 0.4: [0.3, 0.45, 0.3]}}
MASKED = {
    "category": {0.1: [0.5, 0.6, 0.5], 0.2: [1, 1, 1], 0.4: [0.5, 0.55, 0.45]},
    "digit": {0.1: [0.2, 0.3], 0.4: [0.9, 0.8]},
}


def test_the_trade_off_is_the_paired_difference_of_the_largest_and_the_smallest():
    rows = rows_of({"plain": PLAIN, "masked": MASKED})
    found = trade_off(rows.sample(frac=1, random_state=0)).set_index(["arm", "cue"])
    assert len(found) == 3 and set(found["smallest"]) == {0.1} and set(found["largest"]) == {0.4}
    change = np.array([-0.2, -0.15, -0.25])
    low, high = stats.t.interval(0.95, 2, change.mean(), stats.sem(change))
    assert tuple(found.loc[("plain", "category"), ["mean", "low", "high", "n"]]) == pytest.approx((-0.2, low, high, 3))
    assert found.loc[("masked", "digit"), "mean"] == pytest.approx(0.6) and found.loc[("masked", "digit"), "n"] == 2


def test_against_an_arm_its_own_difference_is_taken_off_seed_by_seed():
    rows = rows_of({"plain": PLAIN, "masked": {"category": MASKED["category"]}})
    one = trade_off(rows, against="plain").iloc[0]
    change = np.array([0.2, 0.10, 0.2])
    low, high = stats.t.interval(0.95, 2, change.mean(), stats.sem(change))
    assert (one["arm"], one["mean"], one["low"], one["high"]) == ("masked", *map(pytest.approx, (1 / 6, low, high)))


@pytest.mark.parametrize(
    ("rows", "against", "said"),
    [
        (pd.concat([rows_of({"plain": PLAIN})] * 2), None, "is there twice"),
        (rows_of({"plain": {"category": {0.4: [0.1]}}}), None, r"badge = \[0.4\] cannot be used"),
        (rows_of({"plain": PLAIN}), "none", "against = 'none' cannot be used; accepted: plain"),
        (rows_of({"a": PLAIN, "b": {"digit": {0.1: [0.1]}}}), None, "arm 'b' has no seed whose digit was read with"),
        (rows_of({"a": PLAIN, "b": MASKED}), "a", "arm 'a' has no seed whose digit was read with"),
    ],
)
def test_what_cannot_be_compared_is_said(rows, against, said):
    with pytest.raises(InputError, match=said):
        trade_off(rows, against)


def test_a_run_is_trained_on_badged_scenes_and_read_on_them(tmp_path):
    spec = RunSpec(
        backbone="resnet_small", stem="patch", width=4, projector=(16, 16, 16), image_size=16, images=128, batch_size=32,
        epochs=1, warmup_epochs=0, optimizer="adamw", lr=1e-3, precision="fp32", memory_format="contiguous", compile="off",
    )  # fmt: skip
    plain, run = (fit(spec.replace(badge=b), progress=False, store=RunStore(tmp_path)) for b in (0, BADGE))
    seen, unseen = run.weights("backbone"), plain.weights("backbone")
    assert run.id != plain.id and not torch.equal(seen["stem.0.weight"], unseen["stem.0.weight"])
    backbone = backbone_of(run.spec)
    backbone.load_state_dict(run.weights("backbone"))
    rows = suppression(backbone, load_pool("badged", 16, 500, badge=BADGE), GRID)
    assert rows["value"].between(0, 1).all() and len(rows) == 2
