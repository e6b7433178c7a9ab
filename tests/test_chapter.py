from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat import v4

from mastlib.chapter import declared, parameters, report
from mastlib.errors import InputError

CELL = """\
tier: str = "laptop"  # smoke, laptop, gpu or paper
seeds: list[int] = [0, 1]
lr: float = 0.1
images: int | None = None
overrides: dict[str, float] = {}
"""
VALUES = {"tier": "laptop", "seeds": [0, 1], "lr": 0.1, "images": None, "overrides": {}}


def namespace(*cells: str, **values: object) -> dict[str, object]:
    """What `globals()` is in a kernel after `cells` ran."""
    return {"In": ["", CELL, *cells], "np": np, **VALUES, **values}


def test_parameters_are_frozen_copies_of_the_declared_names_only() -> None:
    seeds = [3]
    run = parameters(namespace(seeds=seeds))
    assert dataclasses.asdict(run) == VALUES | {"seeds": [3]}
    seeds.append(4)
    assert run.seeds == [3]
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.lr = 1.0


def test_an_integer_will_do_for_a_float_and_none_where_declared() -> None:
    run = parameters(namespace(lr=1, images=64, overrides={"lr": 2}))
    assert (run.lr, run.images, run.overrides) == (1, 64, {"lr": 2})


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("seeds", [0, 1.5], r"list\[int\]"),
        ("seeds", [True], r"list\[int\]"),
        ("seeds", 3, r"list\[int\]"),
        ("lr", "0.1", "float"),
        ("lr", float("nan"), "float"),
        ("images", 0.5, r"int \| None"),
        ("overrides", {"lr": "high"}, r"dict\[str, float\]"),
        ("overrides", {1: 1.0}, r"dict\[str, float\]"),
        ("tier", "huge", "smoke, laptop, gpu, paper"),
        ("tier", 1, "str"),
    ],
)
def test_an_unfit_value_is_refused_by_name_and_with_what_is_accepted(name: str, value: object, accepted: str) -> None:
    with pytest.raises(InputError, match=f"^{name} = .* cannot be used; accepted: .*{accepted}"):
        parameters(namespace(**{name: value}))


def test_an_injected_name_that_is_not_declared_is_refused() -> None:
    injected = "# Parameters\nlr = 0.2\nsede = 3\n"
    with pytest.raises(InputError, match="unknown parameter sede; .* takes: tier, seeds, lr, images, overrides"):
        parameters(namespace(injected, lr=0.2, sede=3))


def test_the_newest_cells_count() -> None:
    stale = "# Parameters\nsede = 3\n"
    fixed = "# Parameters\nlr = 0.2\n"
    assert parameters(namespace(stale, fixed, lr=0.2)).lr == 0.2
    longer = CELL + "epochs: int = 5\n"
    assert parameters(namespace("plot(seeds)", "x: int = 3", "if :", longer, epochs=5)).epochs == 5


def test_without_a_parameters_cell_or_a_value_it_says_what_to_run() -> None:
    with pytest.raises(InputError, match="first run the cell"):
        parameters({"tier": "smoke"})
    here = namespace()
    del here["lr"]
    with pytest.raises(InputError, match="parameter lr has no value"):
        parameters(here)


def test_declared_gives_types_and_defaults_and_refuses_the_rest() -> None:
    assert declared(CELL)["seeds"] == (list[int], [0, 1])
    assert {name: default for name, (_, default) in declared(CELL).items()} == VALUES
    with pytest.raises(InputError, match="seeds must be a plain value"):
        declared('tier: str = "smoke"\nseeds: list[int] = list(range(3))')
    with pytest.raises(InputError, match="typed assignments only"):
        declared('tier: str = "smoke"\nseeds = [0]')
    with pytest.raises(InputError, match="the type of a parameter is made of"):
        declared('tier: str = "smoke"\npath: Path = "x"')


def test_report_returns_plain_floats_and_prints_outside_a_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    got = report(gain=np.float32(0.5), n=np.int64(3), verdict="undecided")
    assert got == {"gain": 0.5, "n": 3.0, "verdict": "undecided"}
    assert [type(value) for value in got.values()] == [float, float, str]
    assert capsys.readouterr().out == "gain = 0.5\nn = 3.0\nverdict = undecided\n"
    with pytest.raises(InputError, match="curve = .* a number or a string"):
        report(curve=[1, 2])


def test_importing_it_needs_no_notebook_package() -> None:
    code = "import sys, mastlib.chapter; print({'IPython', 'papermill', 'nbformat', 'myst_nb'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.notebook
def test_through_papermill(tmp_path: Path) -> None:
    """A good parameter arrives and its numbers are glued; a bad one ends non-zero with one line of error."""
    cells = [
        v4.new_code_cell(CELL, metadata={"tags": ["parameters"]}),
        v4.new_code_cell("from mastlib import chapter\nrun = chapter.parameters(globals())"),
        v4.new_code_cell("run = chapter.parameters(globals())\nchapter.report(total=sum(run.seeds))"),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "in.ipynb")
    command = [sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb", "--no-progress-bar"]

    subprocess.run([*command, "-y", "seeds: [3, 4]"], cwd=tmp_path, check=True, capture_output=True)
    outputs = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[-1].outputs
    assert outputs[0].metadata.scrapbook.name == "total"
    assert outputs[1].data["text/plain"] == "{'total': 7.0}"

    bad = subprocess.run([*command, "-p", "sede", "3"], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert bad.returncode != 0
    assert "InputError: unknown parameter sede; this chapter takes: tier, seeds, lr, images, overrides" in bad.stderr
    traceback = next(o for c in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells for o in c.get("outputs", []))
    assert len(traceback.traceback) == 1
