"""From executed chapters and pages to HTML: stage them, run Jupyter Book over them, swap the result in."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
import yaml

from mastlib.files import write_text

BANNER = {
    "smoke": "Smoke tier: everything ran, tiny and short. Its numbers show that the book works; none is a finding.",
    "laptop": "Laptop tier: small images and short training on two CPU cores. The numbers hold for this scale only.",
    "gpu": "GPU tier: medium-sized runs on one GPU. The numbers hold for this scale only.",
    "paper": "Paper tier: VICReg's published schedule on this book's images.",
}
_ASIDE = ("_static", "_extra", "references.bib")  # what a book may have beside its pages


class BookError(RuntimeError):
    """A chapter failed or Jupyter Book refused to build; the message says which, where, and the last lines."""


def stage(
    root: Path,
    tier: str,
    pages: Sequence[Path],
    executed: Mapping[str, Path],
    source: Path,
    waiting: Mapping[str, str] | None = None,
) -> None:
    """Lay pages, executed chapters and the files beside them under `source`, at the checkout's relative paths.

    `waiting`: chapter -> Markdown in place of one that is still to be executed.
    """
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for page in pages:
        write_text(source / page, (root / page).read_text(encoding="utf-8"))
    for name, path in executed.items():
        write_text(source / f"{name}.ipynb", nbformat.writes(_publishable(nbformat.read(path, as_version=4))))
    for name, text in (waiting or {}).items():
        write_text(source / f"{name}.md", text)
    for name in _ASIDE:
        if (root / name).is_dir():
            shutil.copytree(root / name, source / name)
        elif (root / name).is_file():
            shutil.copyfile(root / name, source / name)
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    config.setdefault("html", {})["announcement"] = BANNER[tier]
    write_text(source / "_config.yml", yaml.safe_dump(config))
    write_text(source / "_toc.yml", (root / "_toc.yml").read_text(encoding="utf-8"))


def make_html(source: Path, html: Path, *, strict: bool = True) -> Path:
    """Build `source` with Jupyter Book, if `strict` warnings as errors, and swap the result in as `html`; its index.html.

    Skipped where `html` was built from the same sources by the same tools. Raises BookError with the warnings.
    """
    identity, stamp = _identity(source), html / ".sources"
    if stamp.is_file() and stamp.read_text() == identity:
        print("html: nothing changed, not built again", flush=True)
        return html / "index.html"
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=".build-", dir=html.parent) as folder:
        command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(source)]
        command += ["--path-output", folder, *(["-W", "-n", "--keep-going"] if strict else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        log = html.with_name("build.log")
        write_text(log, done.stdout)
        new = Path(folder, "_build", "html")
        if done.returncode or not (new / "index.html").is_file():
            lines = [line for line in done.stdout.splitlines() if re.search("warning|error|exception", line, re.I)]
            last = "\n  ".join((lines or done.stdout.splitlines())[-12:]).replace(f"{source}{os.sep}", "")
            raise BookError(f"jupyter-book could not build the book:\n  {last}\n  all it said: {log}")
        (new / stamp.name).write_text(identity)
        old = Path(folder, "old")
        if html.exists():
            html.rename(old)
        new.rename(html)
    print(f"html: built in {time.monotonic() - started:.1f} s", flush=True)
    return html / "index.html"


def _publishable(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """`notebook` without times and paths of this machine; the injected cell is labelled as the run's parameters."""
    for name in ("papermill", "widgets", "mastlib_key"):
        notebook.metadata.pop(name, None)
    for cell in notebook.cells:
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata["tags"] += ["parameters-of-this-run"]  # _static/book.css writes the label
    return notebook


def _identity(source: Path) -> str:
    """Hash of all files under `source` and of the versions of the tools that turn them into HTML."""
    tools = [importlib.metadata.version(name) for name in ("jupyter-book", "myst-nb", "sphinx", "sphinx-book-theme")]
    files = sorted(path for path in source.rglob("*") if path.is_file())
    hashes = [[str(path.relative_to(source)), hashlib.sha256(path.read_bytes()).hexdigest()] for path in files]
    return hashlib.sha256(json.dumps([tools, hashes]).encode()).hexdigest()
