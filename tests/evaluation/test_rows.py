from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import mastlib
from mastlib.data.pools import Pool
from mastlib.errors import InputError
from mastlib.evaluation import rows, tasks
from mastlib.evaluation.design import L2_GRID
from mastlib.evaluation.rows import COLUMNS, evaluate, evaluate_backbone, evaluate_features
from mastlib.evaluation.tasks import Task, get_task, headline
from mastlib.models.backbones import build_backbone
from mastlib.runs import Run, RunStore, run_id
from mastlib.spec import RunSpec

GRID = (1e-2, 1.0, 100.0)


def test_features_are_extracted_once_per_pool(squares: SimpleNamespace, pools: dict[str, Pool]) -> None:
    backbone = squares.MeanColour()
    found = evaluate_backbone(backbone, pools, ["hue", "category", "position", "flag"], [1.0])
    assert backbone.seen == sum(len(pool.images) for pool in pools.values())
    assert list(found.columns) == COLUMNS
    assert list(headline(found)["task"]) == ["hue", "category", "position", "flag"]
    assert ((found["low"] <= found["value"]) & (found["value"] <= found["high"])).all()


def test_a_task_that_cannot_be_scored_gives_one_warning_and_the_rest_comes(
    squares: SimpleNamespace, pools: dict[str, Pool]
) -> None:
    with pytest.warns(UserWarning, match="task tone left out: split train has no labelled image") as caught:
        found = evaluate_backbone(squares.MeanColour(), pools, ["tone", "hue"], GRID)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert set(found["task"]) == {"hue"}
    with pytest.warns(UserWarning, match="task position left out: pool latents was not given"):
        found = evaluate_backbone(squares.MeanColour(), {"objects": pools["objects"]}, ["position"], GRID)
    assert list(found.columns) == COLUMNS
    assert found.empty


def test_an_empty_class_and_a_label_that_the_images_lack_are_named(
    squares: SimpleNamespace, pools: dict[str, Pool]
) -> None:
    table = pools["objects"].table
    one_class = replace(pools["objects"], table=table.assign(hue="red"))
    lacking = replace(pools["objects"], table=table.drop(columns="flag"))
    with pytest.warns(UserWarning, match="task hue left out: a classification needs two classes"):
        assert set(
            evaluate_backbone(squares.MeanColour(), {"objects": one_class}, ["hue", "category"], GRID)["task"]
        ) == {"category"}
    with pytest.warns(UserWarning, match="task flag left out: pool objects has no column 'flag'"):
        assert set(evaluate_backbone(squares.MeanColour(), {"objects": lacking}, ["flag", "hue"], GRID)["task"]) == {
            "hue"
        }


class Broken(nn.Module):
    """Features that are not finite where images are small."""

    seen = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return images.mean(dim=(2, 3)) * (torch.nan if images.shape[2] == 16 else 1)


def test_what_was_scored_before_a_protocol_does_not_fit_stays(pools: dict[str, Pool], squares: SimpleNamespace) -> None:
    table = pools["objects"].table  # a concept has four drawings: enough for one example and not for four
    plenty = replace(pools["objects"], table=table.assign(split="test", tone=None))
    with pytest.warns(UserWarning, match="task few_shot partly left out: 5-way 4-shot episodes need 5 classes"):
        found = evaluate_backbone(squares.MeanColour(), {"objects": plenty}, ["few_shot"], GRID)
    assert list(found["metric"]) == ["accuracy_1"]


class Collapsed(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(images), 4)


def test_features_that_are_not_finite_leave_their_tasks_out_and_are_extracted_once(pools: dict[str, Pool]) -> None:
    large = replace(pools["latents"], images=pools["latents"].images.repeat_interleave(2, 2).repeat_interleave(2, 3))
    backbone = Broken()
    with pytest.warns(
        UserWarning, match="left out: 256 of 256|left out: 480 of 480 images have features that are NaN"
    ) as caught:
        found = evaluate_backbone(
            backbone, {"objects": pools["objects"], "latents": large}, ["hue", "flag", "scale"], GRID
        )
    assert [str(w.message).split()[1] for w in caught] == ["hue", "flag"]
    assert set(found["task"]) == {"scale"} and backbone.seen == 960


def test_a_collapsed_backbone_scores_what_needs_no_features(pools: dict[str, Pool]) -> None:
    found = headline(evaluate_backbone(Collapsed(), pools, ["hue", "retrieval", "scale"], GRID)).set_index("task")[
        "value"
    ]
    assert (
        found["hue"] == pytest.approx(0.25)
        and found["retrieval"] < 0.1
        and found["scale"] == pytest.approx(0, abs=0.05)
    )


def test_features_may_come_from_anywhere(pools: dict[str, Pool]) -> None:
    pixels = pools["latents"].images.flatten(1).float()
    task = Task("corner", "regression", "latents", ("x",), "r2")
    assert evaluate_features(task, pixels, pools["latents"])["value"][0] > 0.3


@pytest.fixture
def run(tmp_path: Path) -> Run:
    spec = RunSpec(
        backbone="resnet_small", stem="patch", width=4, seed=3, image_size=16, precision="fp32", memory_format="contiguous",
        compile="off",
    )  # fmt: skip
    state = build_backbone(spec.backbone, spec.width, spec.stem).state_dict()
    with RunStore(tmp_path).writer(run_id(spec, "d", {}), spec, data="d", closure={}) as writer:
        return writer.finish("ok", {}, backbone=state, method={})


def test_a_runs_rows_are_remembered(pools: dict[str, Pool], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate(run, ["hue", "position"], pools, GRID)
    assert list(first.columns) == ["run_id", "seed", *COLUMNS]
    assert set(first["run_id"]) == {run.id}
    assert set(first["seed"]) == {3}
    direct = evaluate_backbone(rows.load_backbone(run), pools, ["hue", "position"], GRID)
    pd.testing.assert_frame_equal(first[COLUMNS], direct, check_exact=True)

    def refuse_to_load(_: Run) -> nn.Module:
        raise AssertionError("the backbone was loaded although every row is there")

    monkeypatch.setattr(rows, "load_backbone", refuse_to_load)
    pd.testing.assert_frame_equal(evaluate(run, ["hue", "position"], pools, GRID), first, check_exact=True)
    only = evaluate(run, ["position"], pools, L2_GRID)  # ridge tries the same penalties whatever the grid
    pd.testing.assert_frame_equal(only, first[first["task"] == "position"].reset_index(drop=True))
    with pytest.raises(AssertionError, match="was loaded"):
        evaluate(run, ["hue"], pools, GRID[:2])


def test_raw_features_are_a_protocol_of_their_own(pools: dict[str, Pool], run: Run) -> None:
    task, pool, features = get_task("hue"), pools["objects"], torch.rand(len(pools["objects"].images), 6)
    features[:, 0] = 1000.0 + 1e-2 * torch.tensor(pool.table["hue"].astype("category").cat.codes.to_numpy().copy())
    strong = (1.0,)
    standard, raw = (evaluate_features(task, features, pool, strong, standardise=s) for s in (True, False))
    assert standard["value"][0] > raw["value"][0] + 0.2  # what is small beside its mean is lost to a penalty
    assert standard["protocol"][0].endswith("standardised") and raw["protocol"][0].endswith("raw")
    both = [evaluate(run, ["hue", "position"], pools, GRID, standardise=s).set_index("metric") for s in (True, False)]
    assert both[0].loc["accuracy", "protocol"] != both[1].loc["accuracy", "protocol"]
    assert both[0].loc["r2"].equals(both[1].loc["r2"])  # a regression has no such choice: one file serves both
    assert (
        len(list((run.folder / "tasks").glob("hue-*"))) == 2
        and len(list((run.folder / "tasks").glob("position-*"))) == 1
    )


def test_it_is_offered_at_the_top_and_finds_the_pools_by_itself(
    squares: SimpleNamespace, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def loaded(name: str, size: int) -> Pool:
        asked.append((name, size))
        return squares.make_pool(name)

    monkeypatch.setattr(rows, "load_pool", loaded)
    found = mastlib.evaluate(run, ["hue", "position", "flag"], grid=GRID)
    assert asked == [("objects", 16), ("latents", 16)] and set(found["task"]) == {"hue", "position", "flag"}
    assert set(mastlib.__all__) <= set(dir(mastlib))
    with pytest.raises(AttributeError, match="it offers RunSpec, evaluate, fit"):
        _ = mastlib.train


def test_every_change_has_its_own_key(pools: dict[str, Pool], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def files() -> int:
        return len(list((run.folder / "tasks").glob("hue-*.csv")))

    evaluate(run, ["hue"], pools, GRID)
    assert files() == 1
    evaluate(run, ["hue"], pools, GRID[::-1])  # the order of penalties is no change
    assert files() == 1
    evaluate(run, ["hue"], pools, (1e-2, 1.0, 10.0))  # as many penalties, another one
    assert files() == 2
    evaluate(run, ["hue"], pools | {"objects": replace(pools["objects"], fingerprint="objects-2")}, GRID)
    assert files() == 3
    monkeypatch.setitem(tasks._REGISTRY, "hue", replace(get_task("hue"), doc="Other words."))
    evaluate(run, ["hue"], pools, GRID)
    assert files() == 3
    monkeypatch.setitem(tasks._REGISTRY, "hue", replace(get_task("hue"), least=2))
    evaluate(run, ["hue"], pools, GRID)
    assert files() == 4
    monkeypatch.setattr(rows, "closure_hash", lambda *_: "other code")
    evaluate(run, ["hue"], pools, GRID)
    assert files() == 5


def test_detection_is_scored_anew_for_its_own_code_alone(
    pools: dict[str, Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {name: rows._key(get_task(name), pools["objects"], GRID, True) for name in ("hue", "detection")}
    monkeypatch.setattr(rows, "closure_hash", lambda module: "other" if module.endswith("detection") else "as it was")
    first = {name: rows._key(get_task(name), pools["objects"], GRID, True) for name in keys}
    monkeypatch.setattr(rows, "closure_hash", lambda module: "new" if module.endswith("detection") else "as it was")
    assert rows._key(get_task("hue"), pools["objects"], GRID, True) == first["hue"]
    assert rows._key(get_task("detection"), pools["objects"], GRID, True) != first["detection"]


def test_a_failed_task_is_tried_again_and_the_order_is_the_callers(pools: dict[str, Pool], run: Run) -> None:
    for _ in range(2):
        with pytest.warns(UserWarning, match="task tone left out") as caught:
            found = evaluate(run, ["position", "tone", "hue"], pools, GRID)
        assert sum("left out" in str(w.message) for w in caught) == 1
        assert list(headline(found)["task"]) == ["position", "hue"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(headline(evaluate(run, ["hue", "position"], pools, GRID))["task"]) == ["hue", "position"]
    with pytest.raises(InputError, match="task"):
        evaluate(run, ["huge"], pools, GRID)
    assert np.isfinite(found["value"]).all()
