"""Evidence of chapter 05: each arm under the name that claims read, on a study whose answers are planted."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mastlib import experiments
from mastlib.changes import change
from mastlib.evaluation.tasks import TASK_GROUPS, list_tasks
from mastlib.experiments import named
from mastlib.ledger import compared
from mastlib.ledger.claims import EVIDENCE, answers
from mastlib.study import RANDOM, Study

HOSTS = ["moco", "simsiam", "supervised"]
MODES, JITTER = ["add", "hypernetwork"], ["augself_weak", "augself_strong"]
ARMS = experiments.rivals("smoke", HOSTS, "standard5", "simsiam", "moco", MODES, JITTER, {})
SEEDS = range(4)


def gained(arm: str, task: str) -> float:
    """What the planted study gives to an arm on a task, beside noise of a thousandth."""
    if arm == "SimSiam + AugSelf, color":
        return 0.1 * (task in TASK_GROUPS["colour"])
    if arm == "SimSiam + AugSelf, crop":
        return 0.1 * (task in TASK_GROUPS["place and size"])
    return {"AugSelf": 0.2, "CASSLE": -0.1}.get(arm.partition(" + ")[2], 0.0)


@pytest.fixture(scope="module")
def study() -> Study:
    draw = np.random.default_rng(0)
    rows = [
        (arm, seed, task, "headline", 0.5 + gained(arm, task) + 1e-3 * draw.normal())
        for arm in [*ARMS, RANDOM]
        for seed in SEEDS
        for task in list_tasks()
    ]
    table = pd.DataFrame(rows, columns=["arm", "seed", "task", "metric", "value"])
    runs = {(arm, seed): SimpleNamespace(spec=spec, info={}) for arm, spec in ARMS.items() for seed in SEEDS}

    class Planted(Study):
        rows = table

    return Planted(runs, table, [])  # type: ignore[arg-type]


def verdicts(**tables: pd.DataFrame) -> dict[str, str]:
    assert all({*EVIDENCE[name]} <= {*table} for name, table in tables.items())
    return answers(tables).set_index("claim")["verdict"].to_dict()


def test_scores_come_under_the_names_of_what_was_added(study):
    found = compared.hosts(study)
    assert {host: set(mine["arm"]) for host, mine in found.groupby("host")} == {
        "moco": {"plain", "augself", "cassle"},
        "simsiam": {"plain", "augself", "cassle"},
        "supervised": {"plain", "augself"},
    }
    told = verdicts(hosts=found)
    assert told == {"A4": "reproduced", "A5": "reproduced", "A6": "reproduced", "C1": "not reproduced"}
    every = compared.by_host(study, study.rows)
    assert set(every[every["host"] == "moco"]["arm"]) == {"plain", "augself", "cassle", "looc"}


def test_targets_are_one_hosts_and_told_apart(study):
    found = compared.targets(study, "simsiam")
    assert found.groupby("arm")["task"].nunique().to_dict() == dict.fromkeys(
        ("none", "crop", "color", "crop+color"), len(list_tasks())
    )
    colour = change(found, {"color": 1, "none": -1}).mean()
    assert set(colour[colour > 0.05].index) == set(TASK_GROUPS["colour"])
    assert verdicts(targets=found) == dict.fromkeys(("A1", "A2", "A3"), "reproduced")


def test_modes_have_the_usual_one_among_them(study):
    found = compared.modes(study, "moco")
    assert set(found["arm"]) == {"concat", *MODES}
    assert verdicts(modes=found) == {"C4": "not reproduced"}, "the usual form was planted a tenth below"


def test_neighbours_are_of_hosts_and_measures(study):
    rows = [
        (arm, seed, measure, sign * gained(arm, "") + 1e-3 * seed)
        for arm in [*ARMS, RANDOM]
        for seed in SEEDS
        for measure, sign in (("hue precision", 1), ("colour distance", -1))
    ]
    found = compared.neighbours(study, pd.DataFrame(rows, columns=["arm", "seed", "measure", "value"]))
    assert verdicts(neighbours=found) == {"A8": "reproduced", "C5": "not reproduced"}


def test_information_goes_by_strength_of_the_jitter(study):
    presets = {"": 1.0, "augself_weak": 0.5, "augself_strong": 2.0}
    rows = [
        (named("simsiam", one, preset), seed, strength, strength + 0.3 * (one == "augself") + 1e-3 * seed * strength)
        for one in ("none", "augself")
        for seed in SEEDS
        for preset, strength in presets.items()
    ]
    rows += [(RANDOM, seed, 1.0, 5.0) for seed in SEEDS]
    found = compared.information(study, pd.DataFrame(rows, columns=["arm", "seed", "strength", "value"]))
    assert set(found["arm"]) == {"plain", "augself"} and set(found["strength"]) == {0.5, 1, 2}
    assert change(found, {"augself": 1, "plain": -1}, ("strength",)).to_numpy() == pytest.approx(0.3)
    assert verdicts(information=found) == {"A7": "reproduced"}


def test_told_is_of_one_projector(study):
    right = {"right": 0.9, "wrong": 0.4, "resampled": 0.5, "unrelated": 0.0}
    rows = [
        (arm, seed, told, (value if arm == "MoCo + CASSLE" else 0.0) + 1e-3 * seed * value)
        for arm in ARMS
        if ARMS[arm].awareness == "cassle"
        for seed in SEEDS
        for told, value in right.items()
    ]
    found = compared.told(pd.DataFrame(rows, columns=["arm", "seed", "told", "value"]), "moco")
    assert set(found["arm"]) == {"right", "wrong", "resampled"} and verdicts(told=found) == {"C2": "reproduced"}


def test_layers_are_those_of_features_at_the_strength_of_training(study):
    rows = [
        (
            named("moco", one),
            seed,
            layer,
            augmentation,
            strength,
            told,
            0.1 * (one == "cassle") * strength + 1e-3 * seed,
        )
        for one in ("none", "cassle")
        for seed in SEEDS
        for layer in ("input", "stem", "backbone", "projector")
        for told in ([""] if layer != "projector" else ["right", "shuffled"] if one == "cassle" else [""])
        for augmentation in ("crop", "color")
        for strength in ((0.5, 1.0, 2.0) if augmentation == "color" else (1.0,))
    ]
    columns = ["arm", "seed", "layer", "augmentation", "strength", "told", "value"]
    found = compared.layers(pd.DataFrame(rows, columns=columns), "moco")
    assert set(found["layer"]) == {"stem", "backbone"} and set(found["arm"]) == {"plain", "cassle"}
    assert change(found, {"cassle": 1, "plain": -1}, ("layer", "augmentation")).to_numpy() == pytest.approx(0.1)
    assert verdicts(layers=found) == {"C3": "reproduced"}
