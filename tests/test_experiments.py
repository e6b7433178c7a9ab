"""What chapters train is what the grid trains, and arms differ in what their names say."""

from __future__ import annotations

import inspect
from pathlib import Path

import nbformat
import pytest

from mastlib.chapter import declared
from mastlib.experiments import EXPERIMENTS, compared

CHAPTERS = Path(__file__).parents[1] / "chapters"
GIVEN = {"tier": "laptop", "augmentations": "standard5", "overrides": {"epochs": 2}}
MOCO = {**GIVEN, "host": "moco"}


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
    mast = EXPERIMENTS["04_mast_training"](**GIVEN)
    assert set(compared(mast).columns) == {"awareness", "pairing", "without"}
    assert mast["MAST"].pairing == mast["VICReg, MAST's pairs"].pairing != mast["VICReg"].pairing
    assert mast["VICReg, no colour ops"].without == ("color", "grayscale")
    rivals = EXPERIMENTS["05_augself_cassle"](**GIVEN)
    for host in ("SimSiam", "MoCo"):
        pair = {name: spec for name, spec in rivals.items() if name.startswith(host)}
        assert len(pair) == 2 and list(compared(pair).columns) == ["awareness"]
    masks = EXPERIMENTS["06_mask_analysis"](**{**GIVEN, "augmentations": "extended15"})
    first = mast["MAST"].replace(augmentations="extended15", uncertainty="reweight")
    assert masks["MAST"] == first == EXPERIMENTS["07_uncertainty"](**{**GIVEN, "augmentations": "extended15"})["MAST"]
    assert masks["MAST, five"] == first.replace(augmentations="standard5")
    twice = {name: spec for name, spec in masks.items() if name.startswith("jitter twice")}
    assert {spec.augmentations for spec in twice.values()} == {"jitter_twice"}
    assert (
        list(compared(twice).columns) == ["mask_diversity"] and masks["jitter twice, likeness free"].mask_diversity == 0
    )
    given = {**GIVEN, "overrides": {"epochs": 2, "uncertainty": "none"}}
    assert all(spec.uncertainty == "none" for spec in EXPERIMENTS["06_mask_analysis"](**given).values())
    everything = EXPERIMENTS["03_motivation_ablation"](**MOCO)
    assert everything.pop("all") == rivals["MoCo"], "trained once for both chapters"
    gone = {arm: spec.without for arm, spec in everything.items()}
    assert gone == {f"without {name}": (name,) for name in ("crop", "flip", "color", "grayscale", "blur")}
    assert list(compared(everything).columns) == ["without"]
    families = EXPERIMENTS["08_why_transfer"](**{name: MOCO[name] for name in ("tier", "host", "overrides")})
    assert [spec.augmentations for spec in families.values()] == ["default", "spatial", "appearance", *["default"] * 3]
    twins = [families[name] for name in ("default", "default, twin 1", "default, twin 2")]
    assert len({twin.seed for twin in twins}) == 3 and len({twin.replace(seed=0) for twin in twins}) == 1
    assert families["supervised"].host == "supervised" and families["spatial"].host == "moco"
    for arms in EXPERIMENTS.values():
        given = {name: MOCO[name] for name in inspect.signature(arms).parameters}
        assert all(spec.epochs == 2 for spec in arms(**given).values())
