"""What must hold for every file of the checkout: clean notebooks, no machine's paths, sound references."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import nbformat
import pytest
import yaml

from mastlib.chapter import declared

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "chapters").glob("*.ipynb"))
# Written in parts, so that this file does not hold what it looks for.
PRIVATE = [
    r"(?<![\w.])/" + r"(home|Users)/\w+",
    r"(?<![\w.])/" + r"root/",
    "py" + r"pi\.org",
    "files.python" + r"hosted\.org",
    "registry.npm" + r"js\.org",
    "deb.deb" + r"ian\.org",
]


def tracked() -> list[Path]:
    """The files git tracks or would add; without git, all but what .gitignore names."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    skipped = (".venv", ".git", "outputs", "build", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache")
    return [p for p in ROOT.rglob("*") if p.is_file() and not set(skipped) & set(p.relative_to(ROOT).parts)]


def test_no_text_names_a_machine_or_a_package_registry() -> None:
    pattern = re.compile("|".join(PRIVATE))
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(text)]
    assert found == []


def test_the_pattern_finds_what_it_is_for() -> None:
    pattern = re.compile("|".join(PRIVATE))
    assert pattern.search('open("/' + 'home/ada/x")')
    assert pattern.search("https://py" + "pi.org/simple")
    assert not pattern.search("outputs/" + "home/x and a/" + "root/of")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_chapters_are_clean_and_parameterised(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert all("id" in cell for cell in json.loads(text)["cells"])
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.kernelspec.language == "python"
    assert "papermill" not in notebook.metadata
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    found = declared(tagged[0].source)
    assert found["tier"] == (str, "laptop")
    assert all("#" in line for line in tagged[0].source.splitlines() if re.match(r"\w+:", line)), "a comment each"
    after = code[code.index(tagged[0]) + 1]
    assert re.search(r"\bparameters\(globals\(\)\)", after.source), "the cell after the parameters checks them"


def test_every_page_is_in_the_table_of_contents() -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    named = {entry["file"] for part in toc["parts"] for entry in part["chapters"]}
    pages = {f"chapters/{path.stem}" for path in (ROOT / "chapters").iterdir() if path.suffix in (".md", ".ipynb")}
    assert pages <= named


def test_references_are_unique_and_cited() -> None:
    keys = re.findall(r"^@\w+\{(\S+),", (ROOT / "references.bib").read_text(), re.M)
    assert len(keys) == len(set(keys))
    text = "".join(
        path.read_text() for path in [ROOT / "index.md", *sorted((ROOT / "chapters").iterdir())] if path.is_file()
    )
    cited = {key.strip() for group in re.findall(r"\{cite:\w+\}`([^`]+)`", text) for key in group.split(",")}
    assert cited == set(keys)
