"""One list of dependencies, three faces: pyproject.toml, environment.yml, and the Makefile's stamps."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from mastlib.tiers import TIERS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_conda_environment_equals_pyproject() -> None:
    python, pip, listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert python == f"python{PROJECT['requires-python']}"
    assert pip == "pip"
    assert listed["pip"] == [*PROJECT["dependencies"], "--editable ."]


def test_version_is_said_alike() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]


def test_makefile_extras_exist_and_its_tiers_are_ours() -> None:
    text = (ROOT / "Makefile").read_text()
    extras = {extra for group in re.findall(r"EXTRAS := \[(.*)\]", text) for extra in group.split(",")}
    assert extras
    assert extras <= set(PROJECT["optional-dependencies"])
    assert re.search(r"^TIERS := (.*)$", text, re.M)[1].split() == list(TIERS)


def test_snakemake_is_for_clusters_alone() -> None:
    assert not any("snakemake" in one for one in PROJECT["dependencies"])
    assert any("snakemake" in one for one in PROJECT["optional-dependencies"]["cluster"])
    imports = [
        path.name
        for path in (ROOT / "mastlib").rglob("*.py")
        if re.search(r"(import|from) snakemake", path.read_text())
    ]
    assert imports == []
    recipes = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("\t")]
    assert recipes and not any("snakemake" in line.lower() for line in recipes)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["book", "TIER=huge"], "TIER = huge cannot be used; accepted: smoke laptop gpu paper"),
        (
            ["book", "PYTHON=no-such-python"],
            "no-such-python is no Python of at least 3.11; choose another: make",
        ),
    ],
)
def test_make_refuses_in_one_line_before_anything_is_installed(tmp_path: Path, arguments: list[str], said: str) -> None:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    # Not as a part of the `make test` that may be running this.
    own = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "TIER")
    }
    done = subprocess.run(["make", *arguments], cwd=tmp_path, env=own, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    lines = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("make: ***")]
    assert len(lines) == 1
    assert said in lines[0]
    assert not (tmp_path / ".venv").exists()
