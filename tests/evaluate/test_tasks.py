from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mastlib.data.pools import Pool, load_pool
from mastlib.errors import InputError
from mastlib.evaluate import tasks
from mastlib.evaluate.probes import L2_GRID, THIN_GRID
from mastlib.evaluate.tasks import (
    COLUMNS,
    Task,
    evaluate_backbone,
    evaluate_features,
    evaluate_run,
    get_task,
    list_tasks,
    majority,
    task_labels,
)
from mastlib.models.backbones import build_backbone
from mastlib.runs import Run, RunStore, run_id
from mastlib.spec import RunSpec

HUES = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 230), "yellow": (220, 220, 20)}
VENDORS = ("twemoji", "openmoji", "noto", "fluent-3d")
GRID = (1e-2, 1.0, 100.0)


def make_pool(name: str, n: int = 480, side: int = 16) -> Pool:
    """A coloured square on grey: hue is its colour, x and y its place; each concept is drawn by every vendor once."""
    rng = np.random.default_rng(5 if name == "objects" else 6)
    corner = rng.integers(0, side - 3, size=(n, 2))
    hue = rng.choice(list(HUES), size=n)
    images = torch.full((n, 3, side, side), 128, dtype=torch.uint8)
    for i, (row, column) in enumerate(corner):
        images[i, :, row : row + 4, column : column + 4] = torch.tensor(HUES[hue[i]], dtype=torch.uint8)[:, None, None]
    concept = np.arange(n) // len(VENDORS)
    table = pd.DataFrame({
        "vendor": np.tile(VENDORS, n // len(VENDORS)), "concept": [f"c{c}" for c in concept],
        "key": [f"k{c}" for c in concept], "hue": hue, "category": hue,
        "subcategory": np.where(np.arange(n) < 30, "rare", hue), "tone": None,
        "flag": np.where(concept % 2 == 0, hue, None), "pointing": np.where(concept % 2 == 1, hue, None),
        "x": (corner[:, 1] + 2) / side, "y": (corner[:, 0] + 2) / side, "scale": rng.random(n),
        "rotation": rng.uniform(-0.5, 0.5, n), "hue_shift": rng.uniform(-0.5, 0.5, n),
        "split": np.array(["train", "train", "train", "val", "test"])[concept % 5],
    })  # fmt: skip
    return Pool(name, images, table, f"{name}-1")


@pytest.fixture(scope="module")
def pools() -> dict[str, Pool]:
    return {name: make_pool(name) for name in ("objects", "latents")}


class MeanColour(nn.Module):
    """Knows colours and no places."""

    seen = 0  # images

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return images.mean(dim=(2, 3))


class Profiles(nn.Module):
    """Knows places: how much each row and each column differs from the background."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        ink = (images - images[:, :, :1, :1].median()).abs().sum(1)
        return torch.cat([ink.mean(1), ink.mean(2)], dim=1)


def test_the_registry() -> None:
    assert list_tasks() == [
        "category", "subcategory", "tone", "hue", "flag", "pointing", "retrieval", "position", "scale", "rotation",
        "hue_shift",
    ]  # fmt: skip
    assert [get_task(name).name for name in list_tasks()] == list_tasks()
    assert {get_task(name).metric for name in list_tasks()} == {"accuracy", "mean_recall", "recall_at_1", "r2"}
    with pytest.raises(InputError, match="'texture' cannot be used; accepted: category, subcategory"):
        get_task("texture")


def test_a_backbone_scores_what_it_knows_and_chance_otherwise(pools: dict[str, Pool]) -> None:
    names = ["hue", "flag", "retrieval", "position"]
    colour = evaluate_backbone(MeanColour(), pools, names, GRID).set_index("task")
    place = evaluate_backbone(Profiles(), pools, names, GRID).set_index("task")
    assert list(colour.reset_index().columns) == COLUMNS
    assert colour.loc["hue", "value"] == 1
    assert colour.loc["flag", "value"] == 1
    assert colour.loc["position", "value"] == pytest.approx(0, abs=0.05)
    assert place.loc["position", "value"] > 0.95
    # Colours are drawn per image: a neighbour of the same colour is the same emoji by chance only.
    assert colour.loc["retrieval", "value"] < 0.2
    assert colour.loc["hue", "n"] == (pools["objects"].table["split"] == "test").sum()


def test_features_are_extracted_once_per_pool(pools: dict[str, Pool]) -> None:
    backbone = MeanColour()
    evaluate_backbone(backbone, pools, ["hue", "category", "position", "flag"], [1.0])
    assert backbone.seen == sum(len(pool.images) for pool in pools.values())


def test_concepts_never_cross_splits_and_vendor_tasks_split_by_vendor(pools: dict[str, Pool]) -> None:
    table = pools["objects"].table
    for name in list_tasks():
        task = get_task(name)
        labels, split = task_labels(task, pools[task.pool])
        group = table["vendor"] if task.split == "vendor" else pools[task.pool].table["concept"]
        sides = pd.DataFrame({"group": group, "split": split}).dropna().groupby("group")["split"].nunique()
        assert (sides == 1).all(), name
        assert len(labels) == len(split) == 480
    split = pd.Series(task_labels(get_task("flag"), pools["objects"])[1])
    assert set(table["vendor"][split.eq("test").to_numpy()]) == {"fluent-3d"}
    assert set(table["vendor"][split.eq("train").to_numpy()]) == {"twemoji"}
    assert split[table["vendor"].eq("noto").to_numpy()].isna().all()


def test_labels_are_targets_or_classes(pools: dict[str, Pool]) -> None:
    latents = pools["latents"].table
    angle, _ = task_labels(get_task("rotation"), pools["latents"])
    np.testing.assert_allclose(np.arctan2(angle[:, 0], angle[:, 1]) / (2 * np.pi), latents["rotation"])
    np.testing.assert_allclose(task_labels(get_task("position"), pools["latents"])[0], latents[["x", "y"]])
    rare, _ = task_labels(get_task("subcategory"), pools["objects"])
    assert [label is None for label in rare] == [True] * 30 + [False] * 450  # 30 images are fewer than 36
    with pytest.raises(InputError, match=r"pool objects has no column 'colour', which task hue reads"):
        task_labels(replace(get_task("hue"), labels=("colour",)), pools["objects"])


def test_majority_needs_no_features(pools: dict[str, Pool]) -> None:
    table = pools["objects"].table
    assert majority(get_task("hue"), pools["objects"]) == 1 / 4
    flags = table[table["flag"].notna()]
    most = flags[flags["vendor"].isin(["twemoji", "openmoji"])]["flag"].value_counts().idxmax()
    expected = (flags[flags["vendor"] == "fluent-3d"]["flag"] == most).mean()
    assert majority(get_task("flag"), pools["objects"]) == pytest.approx(expected)
    assert majority(get_task("retrieval"), pools["objects"]) == pytest.approx(1 / 24)  # test concepts, each vendor once
    assert majority(get_task("scale"), pools["latents"]) == 0
    with pytest.raises(InputError, match="no labelled image"):
        majority(get_task("tone"), pools["objects"])


def test_protocols_say_how(pools: dict[str, Pool]) -> None:
    rows = evaluate_backbone(MeanColour(), pools, ["hue", "scale", "retrieval"], THIN_GRID).set_index("task")[
        "protocol"
    ]
    assert rows["hue"] == "logistic, L2 by validation (12 of 45 weights), standardised"
    assert rows["scale"] == "ridge, alpha by validation (45 weights), standardised"
    assert rows["retrieval"] == "nearest neighbour between vendors, cosine of centred features"
    assert "(1 weights)" in tasks.protocol(get_task("hue"), [0.5])


def test_a_task_that_cannot_be_scored_gives_one_warning_and_the_rest_comes(pools: dict[str, Pool]) -> None:
    with pytest.warns(UserWarning, match="task tone left out: split train has no labelled image") as caught:
        rows = evaluate_backbone(MeanColour(), pools, ["tone", "hue"], GRID)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert list(rows["task"]) == ["hue"]
    with pytest.warns(UserWarning, match="task position left out: pool latents was not given"):
        rows = evaluate_backbone(MeanColour(), {"objects": pools["objects"]}, ["position"], GRID)
    assert list(rows.columns) == COLUMNS
    assert rows.empty


def test_features_may_come_from_anywhere(pools: dict[str, Pool]) -> None:
    pixels = pools["latents"].images.flatten(1).float()
    task = Task("corner", "regression", "latents", ("x",), "r2")
    assert evaluate_features(task, pixels, pools["latents"])["value"][0] > 0.3


@pytest.fixture
def run(tmp_path: Path) -> Run:
    spec = RunSpec(
        backbone="resnet_small", stem="patch", width=4, seed=3, precision="fp32", memory_format="contiguous", compile="off",
    )  # fmt: skip
    state = build_backbone(spec.backbone, spec.width, spec.stem).state_dict()
    with RunStore(tmp_path).writer(run_id(spec, "d", {}), spec, data="d", closure={}) as writer:
        return writer.finish("ok", {}, backbone=state, method={})


def test_a_runs_rows_are_remembered(pools: dict[str, Pool], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate_run(run, pools, ["hue", "position"], GRID)
    assert list(first.columns) == ["run_id", "seed", *COLUMNS]
    assert set(first["run_id"]) == {run.id}
    assert set(first["seed"]) == {3}
    direct = evaluate_backbone(tasks.load_backbone(run), pools, ["hue", "position"], GRID)
    pd.testing.assert_frame_equal(first[COLUMNS], direct, check_exact=True)

    def refuse_to_load(_: Run) -> nn.Module:
        raise AssertionError("the backbone was loaded although every row is there")

    monkeypatch.setattr(tasks, "load_backbone", refuse_to_load)
    pd.testing.assert_frame_equal(evaluate_run(run, pools, ["hue", "position"], GRID), first, check_exact=True)
    pd.testing.assert_frame_equal(
        evaluate_run(run, pools, ["position"], L2_GRID), first[first["task"] == "position"].reset_index(drop=True)
    )
    with pytest.raises(AssertionError, match="was loaded"):
        evaluate_run(run, pools, ["hue"], GRID[:2])


def test_every_change_has_its_own_key(pools: dict[str, Pool], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def files() -> int:
        return len(list((run.folder / "tasks").glob("hue-*.csv")))

    evaluate_run(run, pools, ["hue"], GRID)
    assert files() == 1
    evaluate_run(run, pools, ["hue"], GRID[::-1])  # the order of penalties is no change
    assert files() == 1
    evaluate_run(run, pools, ["hue"], (1e-2, 1.0, 10.0))  # as many penalties, another one
    assert files() == 2
    evaluate_run(run, pools | {"objects": replace(pools["objects"], fingerprint="objects-2")}, ["hue"], GRID)
    assert files() == 3
    monkeypatch.setitem(tasks._REGISTRY, "hue", replace(get_task("hue"), doc="Other words."))
    evaluate_run(run, pools, ["hue"], GRID)
    assert files() == 3
    monkeypatch.setitem(tasks._REGISTRY, "hue", replace(get_task("hue"), metric="accuracy"))
    assert evaluate_run(run, pools, ["hue"], GRID)["metric"].tolist() == ["accuracy"]
    assert files() == 4
    monkeypatch.setattr(tasks, "closure_hash", lambda *_: "other code")
    evaluate_run(run, pools, ["hue"], GRID)
    assert files() == 5


def test_a_failed_task_is_tried_again_and_the_order_is_the_callers(pools: dict[str, Pool], run: Run) -> None:
    for _ in range(2):
        with pytest.warns(UserWarning, match="task tone left out") as caught:
            rows = evaluate_run(run, pools, ["position", "tone", "hue"], GRID)
        assert len(caught) == 1
        assert list(rows["task"]) == ["position", "hue"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(evaluate_run(run, pools, ["hue", "position"], GRID)["task"]) == ["hue", "position"]
    with pytest.raises(InputError, match="task"):
        evaluate_run(run, pools, ["huge"], GRID)


def test_the_description_counts_the_images_that_a_task_reads() -> None:
    real = {name: load_pool(name, 16, limit=3000) for name in ("objects", "latents")}
    frame = tasks.describe_tasks(real)
    assert list(frame.index) == list_tasks()
    tones = real["objects"].table.dropna(subset="tone")
    assert frame.loc["tone", ["train", "val", "test"]].to_dict() == tones["split"].value_counts().to_dict()
    assert frame.loc["tone", "classes or outputs"] == 5
    assert frame.loc["tone", "without features"] == pytest.approx(0.2, abs=0.05)
    assert (frame["test"] > 0).all()
