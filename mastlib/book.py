"""From clean chapters to the HTML book: execute what changed, stage it with the pages, build, swap in.

`python -m mastlib.book --tier smoke`. Nothing in the checkout changes; all is made under `outputs/`:
executed/<tier>/chapters/ (executed copies), book/source/ (what Jupyter Book reads), book/html/ (what a reader opens).
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml
from IPython.core.inputtransformer2 import TransformerManager

from mastlib.chapter import check_parameters, declared
from mastlib.closure import closure_hash
from mastlib.errors import InputError, check_choice
from mastlib.files import outputs_dir, reference_dir, write_text
from mastlib.ledger.kept import evidence_dir
from mastlib.locks import alone
from mastlib.methods import modules_of
from mastlib.publish import BookError, make_html, stage
from mastlib.schedule import Schedule
from mastlib.tiers import TIERS

PATIENCE = 120.0  # seconds after which chapters that are done are shown, while others are executed


@dataclass(frozen=True)
class Chapter:
    """A clean notebook with the parameters it shall run with, and the identity of all that goes into it."""

    name: str  # as in _toc.yml, such as "chapters/01_images"
    notebook: nbformat.NotebookNode
    parameters: dict[str, Any]  # those that are given
    values: dict[str, Any]  # of all its parameters
    key: str

    @property
    def short(self) -> str:
        """Its name without the folder, as parameters are given to it."""
        return self.name.rpartition("/")[2]

    @property
    def title(self) -> str:
        """Its first heading."""
        found = re.search(r"^# (.+)$", "\n".join(cell.source for cell in self.notebook.cells), re.M)
        return found[1] if found else self.short

    @property
    def reads_evidence(self) -> bool:
        """Whether it reads what the other chapters hand over (`ledger.kept`), and so comes after them."""
        return any(cell.cell_type == "code" and "handed_over(" in cell.source for cell in self.notebook.cells)


Given = Mapping[str, Mapping[str, Any]]  # chapter -> parameters over its own


def build(root: Path, tier: str, given: Given | None = None) -> Path:
    """Path of the built book's index.html; only what changed since the last build is executed and built.

    root: folder with _toc.yml, _config.yml. given: chapter name -> parameters over the chapter's own defaults.
    Raises InputError before any kernel starts where a tier or parameter is unknown or ill-typed, BookError where a
    chapter or the HTML build fails; the last good book then stays as it was.
    """
    pages, chapters = plan(root, tier, given or {})
    outputs = outputs_dir()
    source, html = outputs / "book" / "source", outputs / "book" / "html"
    with _alone(outputs / "book"):
        schedule = Schedule(tier, {chapter.short: chapter.values for chapter in chapters})
        made, shown = {}, time.monotonic()
        for chapter in chapters:
            if _there(chapter, tier):
                schedule.skip(chapter.short)
        for place, chapter in enumerate(chapters):
            if not _there(chapter, tier):
                print(schedule, flush=True)
            made[chapter.name] = execute(chapter, tier, schedule)
            coming = [other for other in chapters[place + 1 :] if not _there(other, tier)]
            if coming and time.monotonic() - shown > PATIENCE:
                stage(
                    root, tier, pages, made | _executed(chapters[place + 1 :], tier), source, _waiting(coming, schedule)
                )
                _show(source, html)
                shown = time.monotonic()
        stage(root, tier, pages, made, source)
        return make_html(source, html)


def plan(root: Path, tier: str, given: Given) -> tuple[list[Path], list[Chapter]]:
    """The pages and the chapters that _toc.yml names, each chapter with checked parameters and its key."""
    check_choice("tier", tier, TIERS)
    pages, chapters = [], []
    for name in _named(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))):
        if (root / f"{name}.md").is_file():
            pages.append(Path(f"{name}.md"))
        elif (root / f"{name}.ipynb").is_file():
            chapters.append(_chapter(name, root / f"{name}.ipynb", tier, given.get(name.rpartition("/")[2], {})))
        else:
            raise InputError(f"_toc.yml names {name}, but there is neither {name}.ipynb nor {name}.md")
    for name in given:
        find(chapters, name)
    return pages, chapters


def find(chapters: Sequence[Chapter], short: str) -> Chapter:
    """The one of `chapters` with this short name; InputError where there is none."""
    named = {chapter.short: chapter for chapter in chapters}
    return named[check_choice("chapter", short, named)]


def execute(chapter: Chapter, tier: str, schedule: Schedule | None = None) -> Path:
    """The executed copy of the clean notebook; made now unless it was made from the same notebook, parameters, code and data.

    `schedule` learns how long it took. Raises BookError that names chapter and cell; the partly executed copy then stays beside as
    `<name>.failed.ipynb`.
    """
    target = _target(chapter, tier)
    with alone(target):
        if _there(chapter, tier):
            print(f"{chapter.name}: nothing changed, not executed again", flush=True)
            return target
        schedule = schedule or Schedule(tier, {chapter.short: chapter.values})
        with schedule.executing(chapter.short):
            _execute(chapter, target, _key(chapter, tier))
    return target


def _target(chapter: Chapter, tier: str) -> Path:
    return outputs_dir() / "executed" / tier / f"{chapter.name}.ipynb"


def _key(chapter: Chapter, tier: str) -> str:
    """The chapter's key; of one that reads evidence, with what there is of it."""
    if not chapter.reads_evidence:
        return chapter.key
    texts = [path.read_text(encoding="utf-8") for path in sorted(evidence_dir(tier).glob("*.json"))]
    return hashlib.sha256(json.dumps([chapter.key, *texts]).encode()).hexdigest()


def _there(chapter: Chapter, tier: str) -> bool:
    target = _target(chapter, tier)
    return target.is_file() and nbformat.read(target, as_version=4).metadata.get("mastlib_key") == _key(chapter, tier)


def _executed(chapters: Sequence[Chapter], tier: str) -> dict[str, Path]:
    return {chapter.name: _target(chapter, tier) for chapter in chapters if _there(chapter, tier)}


def _waiting(chapters: Sequence[Chapter], schedule: Schedule) -> dict[str, str]:
    """Pages in place of `chapters` that are still to be executed, each with when it may be expected."""
    pages = {}
    for place, chapter in enumerate(chapters):
        seconds = schedule.seconds([other.short for other in chapters[: place + 1]])
        when = "" if seconds is None else f", in about {max(1, round(seconds / 60))} minutes"
        pages[chapter.name] = (
            f"# {chapter.title}\n\nThis chapter is still to be executed{when}. Load the page again then.\n"
        )
    return pages


def _show(source: Path, html: Path) -> None:
    """An early HTML of what there is; the book's last build is what counts, so a failure is told and no more."""
    try:
        make_html(source, html, strict=False)
    except BookError as error:
        print(f"the book cannot be shown yet: {error}", flush=True)


def _execute(chapter: Chapter, target: Path, key: str) -> None:
    import papermill
    from nbclient.exceptions import DeadKernelError

    print(f"{chapter.name}: executing with {_spell(chapter.parameters)}", flush=True)
    failed, partial = (target.with_name(f"{target.stem}.{state}.ipynb") for state in ("failed", "partial"))
    started = time.monotonic()
    try:
        with _own_kernel() as kernel:
            made = papermill.execute_notebook(
                chapter.notebook,
                str(partial).replace("{", "{{").replace("}", "}}"),  # papermill formats its paths
                parameters=chapter.parameters,
                kernel_name=kernel,
                language="python",
                cwd=target.parent,
                progress_bar=False,
                stderr_file=sys.stderr if sys.stderr.isatty() else None,  # bars are for people who watch
            )
        made.metadata["mastlib_key"] = key
        nbformat.write(made, partial)
        os.replace(partial, target)
    except (papermill.PapermillExecutionError, DeadKernelError) as error:
        os.replace(partial, failed)
        raise BookError(f"{chapter.name} {_story(error)}\n  the partly executed copy: {failed}") from None
    finally:
        partial.unlink(missing_ok=True)
    failed.unlink(missing_ok=True)
    print(f"{chapter.name}: done in {time.monotonic() - started:.1f} s", flush=True)


def imported_modules(notebook: nbformat.NotebookNode) -> set[str]:
    """The modules of this package that a notebook's code cells import, such as {"mastlib.plots"}."""
    found = set()
    plain = TransformerManager().transform_cell  # magics and shell lines to Python
    for cell in notebook.cells:
        for node in ast.walk(ast.parse(plain(cell.source) if cell.cell_type == "code" else "")):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mastlib":
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                modules = (
                    {name for name in inner if importlib.util.find_spec(name)} if _is_package(node.module) else set()
                )
                found |= modules or {node.module}
    return {name for name in found if name.split(".")[0] == "mastlib"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: 0 built, 1 a chapter or the build failed, 2 an input cannot be used (one line on stderr)."""
    parser = argparse.ArgumentParser(prog="python -m mastlib.book", description="Execute the chapters, build the book.")
    add_options(parser)
    parser.add_argument("--only", metavar="CHAPTER", help="execute this chapter, build no book")
    parser.add_argument("--fresh", action="store_true", help="make everything anew, under outputs/fresh")
    chosen = parser.parse_args(arguments)
    try:
        with fresh() if chosen.fresh else contextlib.nullcontext():
            if chosen.only is not None:
                _, chapters = plan(chosen.book, chosen.tier, given_by(chosen.parameter))
                print(execute(find(chapters, chosen.only), chosen.tier))
            else:
                print(build(chosen.book, chosen.tier, given_by(chosen.parameter)))
    except InputError as error:
        print(f"book: {error}", file=sys.stderr)
        return 2
    except BookError as error:
        print(f"book: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("book: interrupted; the last good book is as it was", file=sys.stderr)
        return 130
    return 0


@contextlib.contextmanager
def fresh() -> Iterator[None]:
    """Outputs are `outputs/fresh`, where nothing is that was made or shipped before; one that was ended goes on there.

    Once the block ends well, the next one begins with an empty folder.
    """
    folder = outputs_dir() / "fresh"
    done = folder / "done"
    if done.exists():
        shutil.rmtree(folder)
    before = {name: os.environ.get(name) for name in ("MASTLIB_OUTPUTS", "MASTLIB_REFERENCE")}
    times = reference_dir()
    os.environ |= {"MASTLIB_OUTPUTS": str(folder), "MASTLIB_REFERENCE": str(folder / "reference")}
    try:
        for path in times.glob("*/times.json"):  # how long chapters take is no result
            write_text(folder / "reference" / path.parent.name / path.name, path.read_text(encoding="utf-8"))
        yield
        done.touch()
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def add_options(parser: argparse.ArgumentParser) -> None:
    """Tier, book and parameters, as every command takes them that plans chapters."""
    parser.add_argument("--tier", default="laptop", help=f"one of {', '.join(TIERS)} (default: laptop)")
    parser.add_argument(
        "--book",
        type=lambda text: Path(text).absolute(),
        default=Path(__file__).parents[1],
        help="folder with _toc.yml and _config.yml",
    )
    parser.add_argument(
        "-p",
        "--parameter",
        action="append",
        default=[],
        metavar="CHAPTER.NAME=VALUE",
        help="a parameter over the chapter's own, its value as YAML: -p 04_mast_training.seeds='[0]'",
    )


def given_by(pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`["03_mast.seeds=[0]"]` -> `{"03_mast": {"seeds": [0]}}`; InputError for what is no such text."""
    given: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        found = re.fullmatch(r"(.+?)\.(\w+)=(.*)", pair, re.S)
        if not found:
            raise InputError(f"parameter {pair!r} cannot be used; accepted: CHAPTER.NAME=VALUE")
        try:
            value = json.loads(found[3])  # YAML 1.1 takes 1e-3 for a string
        except ValueError:
            value = yaml.safe_load(found[3])
        given.setdefault(found[1], {})[found[2]] = value
    return given


def _named(node: Any) -> Iterator[str]:
    """Every document a table of contents names, in reading order."""
    if isinstance(node, list):
        for item in node:
            yield from _named(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ("root", "file"):
                yield value
            elif isinstance(value, list):
                yield from _named(value)


def _chapter(name: str, path: Path, tier: str, given: Mapping[str, Any]) -> Chapter:
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise InputError(f"{name}: needs exactly one cell tagged parameters, has {len(cells)}")
    try:
        known = declared(cells[0].source)
        usual = {n: value for n, value in TIERS[tier].given.items() if n in known}
        given = {"tier": tier, **usual, **given}
        values = {n: v for n, (_, v) in known.items()} | given
        check_parameters({n: kind for n, (kind, _) in known.items()}, values)
        modules = sorted(imported_modules(notebook))
        ingredients = [[[cell.cell_type, cell.source, cell.metadata] for cell in notebook.cells], given]
        if modules:  # a notebook that imports nothing of ours reads none of our data
            from mastlib.data.bank import fingerprint

            # Methods are imported by a spec's word, so no import statement shows them.
            ingredients += [closure_hash(*modules, *modules_of()), fingerprint()]
    except (InputError, SyntaxError) as error:
        raise InputError(f"{name}: {error}") from None
    key = hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()
    return Chapter(name, notebook, given, values, key)


@contextlib.contextmanager
def _own_kernel() -> Iterator[str]:
    """Name of a kernel that is this very interpreter, whatever kernels and profiles the user has installed."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "IPYTHONDIR": folder,
            "MASTLIB_OUTPUTS": str(outputs_dir()),
            "MASTLIB_REFERENCE": str(reference_dir()),
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # figures belong into the notebook
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else the debugger warns at every start
        }
        if "MASTLIB_DATA" in os.environ:  # relative to where the command was given, not to where the kernel runs
            environment["MASTLIB_DATA"] = os.path.abspath(os.environ["MASTLIB_DATA"])
        command = [sys.executable, "-m", "ipykernel_launcher", "--log-level=CRITICAL", "-f", "{connection_file}"]
        spec = {"argv": command, "display_name": "Python 3", "language": "python", "env": environment}
        write_text(Path(folder, "kernels", "python3", "kernel.json"), json.dumps(spec))
        before = os.environ.get("JUPYTER_PATH")
        os.environ["JUPYTER_PATH"] = os.pathsep.join([folder, *([before] if before else [])])
        try:
            yield "python3"
        finally:
            del os.environ["JUPYTER_PATH"]
            if before is not None:
                os.environ["JUPYTER_PATH"] = before


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One build at a time in `folder`; the lock goes with the process that holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another build of this book is under way in {folder}; wait for it to end") from None
        yield


def _story(error: Exception) -> str:
    """Where and why a chapter stopped, from papermill's error."""
    traceback = getattr(error, "traceback", None)
    if traceback is None:
        return f"stopped: its kernel died (out of memory, or ended from outside): {error}"
    lines = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(traceback)).splitlines() if line.strip()]
    first = next((line for line in error.source.splitlines() if line.strip()), "")  # type: ignore[attr-defined]
    where = f"failed in cell [{error.exec_count}], which begins: {first}"  # type: ignore[attr-defined]
    return "\n  ".join([where, *lines[-4:]])


def _is_package(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.submodule_search_locations is not None


def _spell(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value!r}" for name, value in parameters.items())


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else a stopped build leaves its kernel running
    sys.exit(main())
