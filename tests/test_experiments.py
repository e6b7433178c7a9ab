"""What chapters train is what the grid trains, and arms differ in what their names say."""

from __future__ import annotations

import inspect
from pathlib import Path

import nbformat
import pytest

from mastlib.chapter import declared
from mastlib.errors import InputError
from mastlib.experiments import EXPERIMENTS, additions, compared, rivals

CHAPTERS = Path(__file__).parents[1] / "chapters"
GIVEN = {"tier": "laptop", "augmentations": "standard5", "overrides": {"epochs": 2}}
MOCO = {**GIVEN, "host": "moco"}
RIVALS = {
    **GIVEN, "hosts": ["moco", "simsiam", "vicreg", "supervised"], "targets_of": "simsiam", "modes_of": "moco",
    "modes": ["concat", "add", "multiply", "hypernetwork"], "jitter": ["standard5", "augself_strong"],
}  # fmt: skip
TRAINED = {
    "tier": "laptop", "few": "standard5", "many": "extended15", "badges": [0.15, 0.4], "overrides": {"epochs": 2}
}  # fmt: skip


def code(name: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(CHAPTERS / f"{name}.ipynb", as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_chapter_takes_its_arms_from_here_and_has_the_parameters(name):
    asked = ", ".join(f"run.{parameter}" for parameter in inspect.signature(EXPERIMENTS[name]).parameters)
    called = f"experiments.{EXPERIMENTS[name].__name__}({asked})"
    assert sum(called in cell.source for cell in code(name)) == 1
    (cell,) = (cell for cell in code(name) if "parameters" in cell.metadata.get("tags", []))
    assert {*inspect.signature(EXPERIMENTS[name]).parameters, "seeds"} <= set(declared(cell.source))


def test_every_chapter_that_compares_runs_is_in_the_grid():
    names = [path.stem for path in CHAPTERS.glob("*.ipynb")]
    assert {name for name in names if any("run_study(" in cell.source for cell in code(name))} <= set(EXPERIMENTS)


def test_arms_differ_in_what_they_are_compared_for():
    mast = EXPERIMENTS["04_mast_training"](**TRAINED)
    assert len(mast) == 14 and len(set(mast.values())) == 14
    settings = {
        ("MAST 15", "VICReg 15"): {"awareness", "pairing", "uncertainty"},
        ("MAST 5", "MAST 15"): {"augmentations"},
        ("VICReg 5", "VICReg 15"): {"augmentations"},
        ("MAST 15", "MAST 15, sure"): {"uncertainty"},
        ("MAST 5, sure", "VICReg 5, MAST's pairs"): {"awareness"},
        ("VICReg 5, MAST's pairs", "VICReg 5"): {"pairing"},
        ("VICReg 5, no colour ops", "VICReg 5"): {"without"},
        ("LooC 5", "MoCo 5"): {"awareness", "pairing"},
        ("MAST 5, badge 0.4", "VICReg 5, badge 0.4"): {"awareness", "pairing", "uncertainty"},
        ("MAST 5, badge 0.15", "MAST 5"): {"badge"},
    }
    for (one, other), differing in settings.items():
        assert set(compared({one: mast[one], other: mast[other]})) == differing, one
    assert mast["VICReg 5, no colour ops"].without == ("color", "grayscale")
    assert mast["MAST 5"].uncertainty == "reweight" and mast["MAST 5, badge 0.4"].badge == 0.4
    rivals = EXPERIMENTS["05_augself_cassle"](**RIVALS)
    masks = EXPERIMENTS["06_mask_analysis"](**{**GIVEN, "augmentations": "extended15"})
    first = mast["MAST 15"]
    assert masks["MAST"] == first == EXPERIMENTS["07_uncertainty"](**{**GIVEN, "augmentations": "extended15"})["MAST"]
    assert masks["MAST, five"] == mast["MAST 5"], "trained once for three chapters"
    twice = {name: spec for name, spec in masks.items() if name.startswith("jitter twice")}
    assert {spec.augmentations for spec in twice.values()} == {"jitter_twice"}
    assert list(compared(twice).columns) == ["mask_diversity"]
    assert twice["jitter twice, likeness free"].mask_diversity == 0
    given = {**GIVEN, "overrides": {"epochs": 2, "uncertainty": "none"}}
    assert all(spec.uncertainty == "none" for spec in EXPERIMENTS["06_mask_analysis"](**given).values())
    everything = EXPERIMENTS["03_motivation_ablation"](**MOCO)
    assert everything.pop("all") == rivals["MoCo"] == mast["MoCo 5"], "trained once for three chapters"
    gone = {arm: spec.without for arm, spec in everything.items()}
    assert gone == {f"without {name}": (name,) for name in ("crop", "flip", "color", "grayscale", "blur")}
    assert list(compared(everything).columns) == ["without"]
    families = EXPERIMENTS["08_why_transfer"](**{name: MOCO[name] for name in ("tier", "host", "overrides")})
    assert [spec.augmentations for spec in families.values()] == ["default", "spatial", "appearance", *["default"] * 3]
    twins = [families[name] for name in ("default", "default, twin 1", "default, twin 2")]
    assert len({twin.seed for twin in twins}) == 3 and len({twin.replace(seed=0) for twin in twins}) == 1
    assert families["supervised"].host == "supervised" and families["spatial"].host == "moco"
    for arms in EXPERIMENTS.values():
        given = {name: (MOCO | RIVALS | TRAINED)[name] for name in inspect.signature(arms).parameters}
        assert all(spec.epochs == 2 for spec in arms(**given).values())


def test_rivals_differ_from_their_host_in_what_was_added():
    arms = rivals(**RIVALS)
    pairs = additions(arms)
    assert list(pairs) == [
        "MoCo + AugSelf", "MoCo + CASSLE", "MoCo + LooC", "SimSiam + AugSelf", "SimSiam + CASSLE", "VICReg + AugSelf",
        "VICReg + CASSLE", "VICReg + MAST", "Supervised + AugSelf",
    ]  # fmt: skip
    own = {"LooC": ["awareness", "pairing"], "MAST": ["awareness", "pairing", "uncertainty"]}
    for arm, (same, host) in pairs.items():
        differ = list(compared({one: arms[one] for one in (same, host)}).columns)
        assert same == arm and differ == own.get(arm.partition(" + ")[2], ["awareness"])
    for arm, column, value in (
        ("SimSiam + AugSelf, crop", "augself_tasks", ("crop",)),
        ("SimSiam + AugSelf, color", "augself_tasks", ("color",)),
        ("SimSiam + AugSelf, augself_strong", "augmentations", "augself_strong"),
        ("SimSiam, augself_strong", "augmentations", "augself_strong"),
        ("MoCo + CASSLE, add", "condition_mode", "add"),
        ("MoCo + CASSLE, multiply", "condition_mode", "multiply"),
        ("MoCo + CASSLE, hypernetwork", "condition_mode", "hypernetwork"),
    ):
        differ = set(compared({one: arms[one] for one in (arm, arm.partition(",")[0])}).columns) - {"augself_weights"}
        assert differ == {column} and getattr(arms[arm], column) == value
    assert len(arms) == len({*arms.values()}) == 4 + len(pairs) + 7


def test_without_colours_augself_predicts_the_crop_and_neither_target_stands_alone():
    arms = rivals(**{**RIVALS, "augmentations": "spatial", "jitter": [], "modes": []})
    assert {spec.augself_tasks for spec in arms.values() if spec.awareness == "augself"} == {("crop",)}
    assert not [arm for arm in arms if arm.endswith((", crop", ", color"))]


def test_rivals_follow_from_the_hosts_that_are_named():
    arms = rivals(**{**RIVALS, "hosts": ["moco"], "targets_of": "moco", "jitter": []})
    assert {spec.host for spec in arms.values()} == {"moco"} and len(arms) == 1 + 3 + 2 + 3
    assert {spec.host for spec in rivals(**{**RIVALS, "hosts": []}).values()} == {"simsiam", "moco"}
    with pytest.raises(InputError, match="supervised"):
        rivals(**{**RIVALS, "modes_of": "supervised"})
    with pytest.raises(InputError, match="host"):
        rivals(**{**RIVALS, "hosts": ["nobody"]})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"many": "standard5"},
            "many = 'standard5' cannot be used; accepted: a preset of more augmentations than the 5",
        ),
        ({"few": "extended15", "many": "standard5"}, "more augmentations than the 15 of few = 'extended15'"),
        ({"many": "seventeen"}, "preset = 'seventeen'"),
        ({"badges": [0.4]}, r"badges = \[0.4\] cannot be used; accepted: two sizes or more"),
        ({"badges": [0.4, 0.15]}, "above 0 and in rising order"),
        ({"badges": [0.0, 0.4]}, "above 0"),
        ({"badges": [0.15, 0.6]}, "badge = 0.6"),
    ],
)
def test_arms_that_could_not_be_compared_are_refused_in_one_line(given, said):
    with pytest.raises(InputError, match=said) as error:
        EXPERIMENTS["04_mast_training"](**{**TRAINED, **given})
    assert "\n" not in str(error.value)


def test_a_preset_without_colour_has_nothing_to_leave_out():
    arms = EXPERIMENTS["04_mast_training"](**{**TRAINED, "few": "spatial", "many": "default"})
    assert arms["VICReg 2, no colour ops"] == arms["VICReg 2"] and arms["MAST 5"].augmentations == "default"
