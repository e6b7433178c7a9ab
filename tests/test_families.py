"""Backbones of a study together: their invariances, and several side by side."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from mastlib import experiments, families
from mastlib.changes import change
from mastlib.evaluation.features import extract
from mastlib.evaluation.invariance import VARIATIONS
from mastlib.evaluation.rows import load_backbone
from mastlib.evaluation.transforms import TRANSFORMS
from mastlib.ledger import evidence
from mastlib.ledger.claims import EVIDENCE, answers
from mastlib.stats import crossed
from mastlib.study import RANDOM, run_study, untrained

TINY = {
    "width": 4,
    "images": 128,
    "batch_size": 64,
    "epochs": 1,
    "warmup_epochs": 0,
    "image_size": 16,
}


@pytest.fixture(scope="module")
def study():
    arms = experiments.families("smoke", "moco", TINY)
    arms.pop("supervised")
    return run_study(arms, [0, 1, 2], "smoke", ["category", "position", "hue_shift"])


@pytest.fixture(scope="module")
def found(study):
    return families.invariances(study, images=16, objects=4, arms=[*experiments.FAMILIES, RANDOM])


def test_every_network_is_there_with_its_own_weights(study):
    every = {(model.arm, model.seed): model.backbone() for model in study.models()}
    arms = [*experiments.FAMILIES, *experiments.TWINS, RANDOM]
    assert list(every) == [(arm, seed) for arm in arms for seed in range(3)]
    images = torch.rand(4, 3, 16, 16)
    features = [extract(backbone, images) for backbone in every.values()]
    assert all(not torch.equal(a, b) for i, a in enumerate(features) for b in features[:i])
    spec = study.runs["spatial", 1].spec
    assert torch.equal(extract(every[RANDOM, 1], images), extract(untrained(spec, 1), images))
    assert torch.equal(extract(every["spatial", 1], images), extract(load_backbone(study.runs["spatial", 1]), images))
    assert [model.arm for model in study.models(["spatial"])] == ["spatial"] * 3


def test_invariances_are_of_each_backbone_and_change(found):
    cosines = found[found["measure"] == "cosine"]
    assert not cosines.duplicated(["arm", "seed", "kind", "transform"]).any()
    for kind, names in (("synthetic", TRANSFORMS), ("intrinsic", VARIATIONS)):
        mine = cosines[cosines["kind"] == kind]
        assert set(mine["transform"]) == set(names) and len(mine) == len(names) * 12
    assert cosines["value"].between(-1, 1).all() and cosines["value"].std() > 0.01


def test_groups_are_of_all_seeds_and_changes(found):
    table = families.by_group(found, "synthetic").set_index(["arm", "group"])
    assert set(table.index) == {(arm, g) for arm in (*experiments.FAMILIES, RANDOM) for g in ("spatial", "appearance")}
    rows = found.query("kind == 'synthetic' and measure == 'cosine' and group == 'spatial'")
    expected = crossed(change(rows, {"spatial": 1}, ("transform",)))
    assert table.loc[("spatial", "spatial")].tolist() == pytest.approx(expected)


def test_fusions_are_as_wide_as_all_of_them_and_wide_has_twins_of_one(study, monkeypatch, tmp_path):
    monkeypatch.setattr("mastlib.remembered.outputs_dir", lambda: tmp_path)
    seen = []

    def keep(backbone, pools, tasks, grid):
        seen.append(backbone)
        return pd.DataFrame({"task": ["category"], "metric": ["mean_recall"], "value": [0.5]})

    monkeypatch.setattr(families, "evaluate_backbone", keep)
    rows = families.fusions(study, experiments.FAMILIES, experiments.TWINS, "smoke")
    assert rows[["arm", "seed"]].to_numpy().tolist() == [[arm, seed] for arm in ("fused", "wide") for seed in range(3)]
    images = torch.rand(8, 3, 16, 16)
    parts = [[extract(part, images) for part in fused.backbones] for fused in seen]
    assert all(
        extract(fused, images).shape == (8, sum(p.shape[1] for p in part))
        for fused, part in zip(seen, parts, strict=True)
    )
    of = {key: extract(load_backbone(run), images) for key, run in study.runs.items()}
    for seed in range(3):
        for found, arms in ((parts[seed], experiments.FAMILIES), (parts[3 + seed], ("default", *experiments.TWINS))):
            assert all(torch.equal(part, of[arm, seed]) for part, arm in zip(found, arms, strict=True))
    wide = [part for fusion in parts[3:] for part in fusion]
    assert all(not torch.equal(a, b) for i, a in enumerate(wide) for b in wide[:i]), "no network counts twice"
    families.fusions(study, experiments.FAMILIES, experiments.TWINS, "smoke")
    assert len(seen) == 6, "remembered"


def test_a_fusion_that_lacks_one_of_its_arms_is_left_out(study, monkeypatch, tmp_path):
    monkeypatch.setattr("mastlib.remembered.outputs_dir", lambda: tmp_path)
    monkeypatch.setattr(
        families,
        "evaluate_backbone",
        lambda *_: pd.DataFrame({"task": ["category"], "metric": ["mean_recall"], "value": [0.5]}),
    )
    less = dataclasses.replace(study, runs={key: run for key, run in study.runs.items() if key != ("spatial", 1)})
    rows = families.fusions(less, experiments.FAMILIES, experiments.TWINS, "smoke")
    assert list(rows.loc[rows["arm"] == "fused", "seed"]) == [0, 2]
    assert families.fusions(study, ["absent"], [], "smoke").empty


def test_tables_of_evidence_are_what_claims_read(study, found):
    fused = pd.DataFrame({"arm": "fused", "seed": range(3), "task": "category", "value": 0.5})
    tables = {
        "synthetic": evidence.synthetic(found),
        "intrinsic": evidence.intrinsic(found),
        "families": evidence.families(study, fused),
    }
    assert {name: tuple(table.columns) for name, table in tables.items()} == {name: EVIDENCE[name] for name in tables}
    assert set(tables["intrinsic"]["change"]) == set(VARIATIONS) - {"vendor", "object"}
    assert set(tables["intrinsic"]["group"]) == {"spatial", "appearance"}
    assert set(tables["synthetic"]["arm"]) == {*experiments.FAMILIES, "random"}
    assert set(tables["families"]["arm"]) == {*experiments.FAMILIES, "random", "fused"}
    rows = answers(tables).set_index("claim")
    assert list(rows.index) == [f"I{i}" for i in range(1, 7)] and "not measured" not in set(rows["verdict"])
    assert np.isfinite(rows["effect"]).all()
