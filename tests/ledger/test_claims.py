"""Each claim in a world where it is true, where it is false, and where nothing can be told; and what tables have to be."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from mastlib.errors import InputError
from mastlib.evaluation.tasks import list_tasks
from mastlib.ledger import effects
from mastlib.ledger.claims import CLAIMS, EVIDENCE, NOT_MEASURED, ledger
from mastlib.ledger.verdicts import NOT_REPRODUCED, REPRODUCED, UNDECIDED

SEEDS, TASKS, OPS = range(3), list_tasks(), ("crop", "flip", "color", "grayscale", "blur")
HOSTS, GROUPS = ("moco", "simsiam"), ("spatial", "appearance")
AWARE, NEAR = ("plain", "augself", "cassle"), ("hue precision", "colour distance")
SUM = {"moco": 0.02, "simsiam": -0.02}


def rows(columns, values, noise, draw):
    """A row of each key of `values` for each seed, with noise of its own."""
    keys = [name for name in columns if name not in ("seed", "value")]
    made = [
        dict(zip(keys, key if isinstance(key, tuple) else (key,), strict=True))
        | {"seed": seed, "value": value + noise * draw.normal()}
        for key, value in values.items()
        for seed in SEEDS
    ]
    return pd.DataFrame(made)[list(columns)]


def world(s, noise=0.002, seed=0):
    """Tables in which each claim but three has effects of size s: true for 1, reversed for -1, for 0 there is nothing but noise."""
    draw, task_of = np.random.default_rng(seed), itertools.product
    true, false = max(s, 0), max(-s, 0)
    values = {
        "removal": {(arm, t): 0.5 - 0.1 * s * (arm == "crop") + 0.1 * s * (arm == "color")
                    * ((t == "species") - (t in effects.RECOGNITION))
                    for arm, t in task_of(("all", *OPS), TASKS)},
        "masked": {(arm, t): 0.5 + s * gain for (arm, gain), t in task_of(
            {"host 5": 0, "host 15": 0, "mast 5": 0.02, "sure 5": 0.02, "mast 15": 0.1, "sure 15": 0.05, "looc": 0}.items(),
            TASKS)},
        "overlap": {"unique": 0.3 * true, "shared": 0.3 * true, "within": 0.3 + 0.1 * s, "between": 0.3,
                    "color, grayscale": 0.5 + 0.1 * s, "color, crop": 0.5},
        "variation": {(arm, op): 0.5 * np.exp(-0.5 * s * (arm == op)) for arm, op in task_of((*OPS, "full space"), OPS)},
        "ablation": {(arm, t): 0.5 - 0.1 * s * arm.startswith("only")
                     for arm, t in task_of(("full space", *(f"only {op}" for op in OPS)), TASKS)},
        "cues": {(arm, cue, badge): 0.5 - 0.1 * (badge == 0.4) * lost * (cue == "category")
                 for (arm, lost), cue, badge in task_of(
                     {"mast": false, "host": true, "clean": 0}.items(), ("category", "digit"), (0.1, 0.4))},
        "strength": dict.fromkeys(OPS, 0.5 * s),
        "difficulty": dict.fromkeys(task_of(("neighbours", "probe", "loss"), OPS), 0.5 * s),
        "targets": {(arm, t): 0.5 + s * (0.1 * ("color" in arm and t in effects.COLOUR)
                    + 0.1 * ("crop" in arm and t in effects.PLACE) + 0.01 * (arm == "crop+color"))
                    for arm, t in task_of(("none", "crop", "color", "crop+color"), TASKS)},
        "hosts": {(arm, host, t): 0.5 + SUM[host] + 0.05 * s * (arm != "plain")
                  for arm, host, t in task_of(AWARE, HOSTS, TASKS)},
        "neighbours": {(arm, host, m): 0.5 + 0.05 * s * (arm != "plain") * (1 if m == "hue precision" else -1)
                       for arm, host, m in task_of(AWARE, HOSTS, NEAR)},
        "information": {(arm, level): 3 + level + 0.2 * s * (arm == "augself")
                        for arm, level in task_of(("plain", "augself"), (0.0, 0.5, 1.0))},
        "told": {arm: 0.6 + 0.2 * s * (arm == "right") for arm in ("right", "wrong", "resampled")},
        "layers": {(arm, layer, op): 1 + 0.2 * s * (arm == "cassle")
                   for arm, layer, op in task_of(("plain", "cassle"), ("stage1", "stage2", "projector"), OPS)},
        "modes": {(arm, t): 0.5 + 0.05 * s * (arm == "concat")
                  for arm, t in task_of(("concat", "add", "multiply", "hyper"), TASKS)},
        "synthetic": {(arm, group, f"{group} {i}"): 0.5 + 0.1 * s * at for (arm, at), group, i in task_of(
            {"default": 0, "spatial": 1, "appearance": -1, "random": -2}.items(), GROUPS, range(6))},
        "families": dict.fromkeys(task_of(("default", "spatial", "appearance", "random", "fused", "wide"), TASKS), 0.5),
    }  # fmt: skip
    mirrored = {"spatial": -1, "appearance": 1, "default": 0, "random": -2}
    for arm, group, name in values["synthetic"]:
        if group == "appearance":
            values["synthetic"][arm, group, name] = 0.5 + 0.1 * s * mirrored[arm]
    values["intrinsic"] = {key: value for key, value in values["synthetic"].items() if key[0] != "random"}
    for arm, t in values["families"]:
        at = {"default": 0, "spatial": -1, "appearance": -2}.get(arm, 0) if t in effects.RECOGNITION else 0
        at += {"default": -1, "spatial": -1}.get(arm, 0) if t in effects.POSE else 0
        at += {"appearance": -1}.get(arm, 0) if t in effects.COLOUR_LATENTS else 0
        values["families"][arm, t] += 0.1 * s * at + 0.3 * s * (arm == "fused") - 0.3 * s * (arm == "random")
    tables = {name: rows(EVIDENCE[name], found, noise, draw) for name, found in values.items()}
    spread = 1.2 if s == 0 else 1.02
    costs = [(arm, m, 1.25 * 1.2**-s) for arm in ("mast", "augself") for m in ("seconds", "memory", "parameters")]
    costs += [("looc", m, 2.0**s) for m in ("seconds", "memory", "parameters")]
    tables["cost"] = pd.DataFrame(costs, columns=["arm", "measure", "value"]).assign(
        low=lambda t: t["value"] / spread, high=lambda t: t["value"] * spread
    )
    return tables


BY_HAND = ("M2", "A3", "I2")  # their false is not the reverse of their true
TRUE, FALSE, NOISE = (ledger(tables).set_index("claim") for tables in (world(1), world(-1), world(0, 0.2, seed=2)))


@pytest.mark.parametrize("claim", [claim.name for claim in CLAIMS if claim.name not in BY_HAND])
def test_a_claim_is_reproduced_where_it_is_true_not_where_it_is_reversed_and_open_where_noise_hides_it(claim):
    assert TRUE.loc[claim, "verdict"] == REPRODUCED
    assert FALSE.loc[claim, "verdict"] == NOT_REPRODUCED
    assert NOISE.loc[claim, "verdict"] == UNDECIDED
    for found in (TRUE, FALSE, NOISE):
        assert found.loc[claim, "low"] <= found.loc[claim, "effect"] <= found.loc[claim, "high"]


def test_one_seed_decides_nothing_but_costs():
    one = {name: table[table["seed"] == 0] if "seed" in table else table for name, table in world(1).items()}
    found = ledger(one).set_index("claim")["verdict"]
    assert set(found.drop(["M14", "A9"])) <= {UNDECIDED, NOT_MEASURED} and (found == UNDECIDED).sum() > 20
    assert found["M14"] == found["A9"] == REPRODUCED


def decided(claim, **tables):
    return ledger(tables).set_index("claim").loc[claim, "verdict"]


def test_augmentations_that_help_all_tasks_alike_do_not_interact_with_them():
    draw = np.random.default_rng(0)
    alike = {
        (arm, t): 0.5 + 0.1 * i + 0.01 * j
        for (i, arm), (j, t) in itertools.product(enumerate(("all", *OPS)), enumerate(TASKS))
    }
    unlike = {key: value + 0.1 * draw.normal() for key, value in alike.items()}
    columns = EVIDENCE["removal"]
    assert decided("M2", removal=rows(columns, unlike, 0.01, draw)) == REPRODUCED
    assert decided("M2", removal=rows(columns, alike, 0.005, draw)) == NOT_REPRODUCED
    assert decided("M2", removal=rows(columns, alike, 0.2, draw)) == UNDECIDED


@pytest.mark.parametrize(("best", "verdict"), [(22, REPRODUCED), (3, NOT_REPRODUCED), (14, UNDECIDED)])
def test_best_on_most_tasks_is_counted(best, verdict):
    values = {(arm, t): 0.5 + 0.1 * (arm == ("crop+color" if i < best else "color"))
              for arm in ("none", "crop", "color", "crop+color") for i, t in enumerate(TASKS)}  # fmt: skip
    assert decided("A3", targets=rows(EVIDENCE["targets"], values, 0.001, np.random.default_rng(0))) == verdict


@pytest.mark.parametrize(
    ("slope", "noise", "verdict"), [(-1, 0.01, REPRODUCED), (1, 0.01, NOT_REPRODUCED), (0, 0.1, UNDECIDED)]
)
def test_a_trade_off_is_a_negative_correlation_over_models(slope, noise, verdict):
    arms = {"default": 0, "spatial": 0.2, "appearance": -0.2}
    values = {
        (arm, group, "one"): 0.5 + x * (1 if group == "spatial" else slope)
        for arm, x in arms.items()
        for group in GROUPS
    }
    found = rows(EVIDENCE["synthetic"], values, noise, np.random.default_rng(1))
    assert decided("I2", synthetic=found) == verdict


def test_every_claim_of_the_seeds_is_there_once_and_says_how_it_is_decided():
    names = [claim.name for claim in CLAIMS]
    expected = [f"{letter}{i}" for letter, n in (("M", 14), ("A", 9), ("C", 5), ("I", 6)) for i in range(1, n + 1)]
    assert names == expected
    assert {name for claim in CLAIMS for name in claim.needs} == set(EVIDENCE)
    assert all(claim.says.endswith(".") and claim.test.endswith(".") for claim in CLAIMS)


def test_what_is_not_there_is_not_measured_and_the_rest_is():
    tables = world(1)
    found = ledger({"told": tables["told"], "hosts": tables["hosts"].query("task != 'localisation'")}).set_index(
        "claim"
    )
    assert found.loc["C2", "verdict"] == found.loc["A5", "verdict"] == REPRODUCED
    assert found.loc["A6", "verdict"] == NOT_MEASURED and "no seed has" in found.loc["A6", "what"]
    assert found.loc["M1", "verdict"] == NOT_MEASURED and found.loc["M1", "what"] == "no table removal"
    assert (found["verdict"] == NOT_MEASURED).sum() == 34 - 4


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"tolld": pd.DataFrame()}, "table = 'tolld' cannot be used; accepted: .*told"),
        ({"told": pd.DataFrame({"arm": ["right"], "seed": [0]})}, "told = .* columns arm, seed, value"),
        ({"told": pd.concat([world(1)["told"]] * 2)}, "appears twice"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tables, said):
    with pytest.raises(InputError, match=said):
        ledger(tables)
