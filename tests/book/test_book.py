from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import papermill
import pytest

from mastlib import book, publish
from mastlib.files import outputs_dir
from mastlib.tiers import TIERS


def make(root: Path, *arguments: str, tier: str = "smoke") -> int:
    return book.main(["--book", str(root), "--tier", tier, *arguments])


@pytest.mark.notebook
@pytest.mark.slow
def test_a_book_from_end_to_end(
    tiny: Path,
    tmp_path: Path,
    write_chapter: Callable[..., None],
    fetched_from_elsewhere: Callable[[Path], list[str]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = {path: path.read_bytes() for path in tiny.rglob("*") if path.is_file()}
    assert make(tiny) == 0
    out, err = capfd.readouterr()
    html = outputs_dir() / "book" / "html"
    assert out.splitlines()[-1] == str(html / "index.html")
    assert err == ""
    assert {path: path.read_bytes() for path in tiny.rglob("*") if path.is_file()} == before

    page = (html / "chapters" / "one.html").read_text()
    assert ">0.50<" in page  # the glued number
    assert "Smoke tier" in page and "Smoke tier" in (html / "index.html").read_text()
    assert "tag_parameters-of-this-run" in page
    assert "Huang" in page
    assert (html / "_static" / "mathjax" / "tex-svg.js").is_file() and "_static/mathjax/tex-svg.js" in page
    assert fetched_from_elsewhere(html) == []

    assert make(tiny) == 0  # nothing changed
    assert "not executed again" in capfd.readouterr().out
    assert (tmp_path / "marks").read_text() == "smoke 2\n"

    write_chapter(tiny / "chapters" / "one.ipynb", "first = 1", "# the second\nraise ValueError('no ' + 'luck')")
    assert make(tiny) == 1
    said = capfd.readouterr().err
    assert "chapters/one failed in cell [4], which begins: # the second" in said
    assert "ValueError: no luck" in said
    assert (html / "chapters" / "one.html").read_text() == page
    executed = outputs_dir() / "executed" / "smoke" / "chapters"
    assert {path.name for path in executed.iterdir()} == {"one.ipynb", "one.failed.ipynb"}


@pytest.mark.notebook
def test_one_chapter_is_executed_alone(tiny: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert make(tiny, "--only", "one") == 0
    target = outputs_dir() / "executed" / "smoke" / "chapters" / "one.ipynb"
    assert capfd.readouterr().out.splitlines()[-1] == str(target) and target.is_file()
    assert not (outputs_dir() / "book").exists()
    assert make(tiny) == 0
    assert (tmp_path / "marks").read_text() == "smoke 2\n", "the book takes the copy that is there"


@pytest.mark.notebook
def test_a_changed_parameter_executes_again(tiny: Path, tmp_path: Path) -> None:
    for n in (2, 3, 3):
        _, [chapter] = book.plan(tiny, "smoke", {"one": {"n": n}})
        target = book.execute(chapter, "smoke")
    assert (tmp_path / "marks").read_text() == "smoke 2\nsmoke 3\n"
    assert nbformat.read(target, as_version=4).metadata.papermill.parameters == {"tier": "smoke", "n": 3}


def test_the_key_knows_notebook_parameters_code_and_data(
    tiny: Path, write_chapter: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny / "chapters" / "one.ipynb"

    def key(tier: str = "smoke", **parameters: int) -> str:
        return book.plan(tiny, tier, {"one": parameters})[1][0].key

    monkeypatch.setattr("mastlib.data.bank.fingerprint", lambda: "data")
    write_chapter(path, "from mastlib import chapter")
    first = key()
    assert key() == first
    assert len({first, key(n=3), key("laptop")}) == 3
    started: list[str] = []
    monkeypatch.setattr(book, "closure_hash", lambda *names: started.extend(names) or "other code")
    changed = key()
    assert {"mastlib.chapter", "mastlib.methods.mast"} <= set(started)
    monkeypatch.setattr("mastlib.data.bank.fingerprint", lambda: "other data")
    assert len({first, changed, key()}) == 3
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source += " Yes."
    nbformat.write(notebook, path)
    worded = key()
    notebook.cells[0].metadata["tags"] = ["margin"]
    nbformat.write(notebook, path)
    assert len({changed, worded, key()}) == 3


def test_a_tier_gives_chapters_parameters_that_they_declare_unless_others_are_given(
    tiny: Path, write_chapter: Callable[..., None]
) -> None:
    def seeds(tier: str, **given: object) -> tuple[object, object]:
        [chapter] = book.plan(tiny, tier, {"one": given} if given else {})[1]
        return chapter.values.get("seeds"), chapter.parameters.get("seeds")

    assert seeds("smoke") == (None, None)
    write_chapter(tiny / "chapters" / "one.ipynb", parameters='tier: str = "laptop"\nseeds: list[int] = [0, 1, 2]')
    assert seeds("smoke") == ([0], [0]) and seeds("laptop") == ([0, 1, 2], None)
    assert seeds("smoke", seeds=[3, 4]) == ([3, 4], [3, 4])


@pytest.mark.parametrize(
    ("tier", "arguments", "said"),
    [
        ("huge", [], "tier = 'huge' cannot be used; accepted: smoke, laptop, gpu, paper"),
        ("smoke", ["-p", "one.m=3"], "chapters/one: unknown parameter m; this chapter takes: tier, n"),
        ("smoke", ["-p", "one.n=[1]"], "chapters/one: n = [1] cannot be used; accepted: a value of type int"),
        ("smoke", ["-p", "two.n=1"], "chapter = 'two' cannot be used; accepted: one"),
        ("smoke", ["--only", "two"], "chapter = 'two' cannot be used; accepted: one"),
        ("smoke", ["-p", "n=1"], "parameter 'n=1' cannot be used; accepted: CHAPTER.NAME=VALUE"),
    ],
)
def test_bad_input_ends_with_one_line_before_a_kernel_starts(
    tiny: Path,
    tier: str,
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(papermill, "execute_notebook", lambda *_, **__: pytest.fail("a kernel was started"))
    assert make(tiny, *arguments, tier=tier) == 2
    assert capsys.readouterr().err == f"book: {said}\n"


def test_a_chapter_must_declare_its_parameters_once_and_plainly(
    tiny: Path, write_chapter: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny / "chapters" / "one.ipynb"
    for parameters, said in [
        ("n: int = 2", "chapters/one: unknown parameter tier; this chapter takes: n"),
        ("tier = 'smoke'", "chapters/one: the parameters cell must hold typed assignments only"),
        ('tier: str = "smoke"\nn: int = 2.5', "chapters/one: n = 2.5 cannot be used; accepted: a value of type int"),
    ]:
        write_chapter(path, parameters=parameters)
        assert make(tiny) == 2
        assert said in capsys.readouterr().err
    path.unlink()
    assert make(tiny) == 2
    assert "_toc.yml names chapters/one, but there is neither" in capsys.readouterr().err


@pytest.mark.slow
def test_a_warning_is_an_error_and_leaves_the_last_good_book(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tiny / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    (tiny / "index.md").write_text("# Tiny\n\nSee {ref}`nowhere`.\n")
    html = outputs_dir() / "book" / "html"
    html.mkdir(parents=True)
    (html / "index.html").write_text("the last good book")
    assert make(tiny) == 1
    assert "undefined label: 'nowhere'" in capfd.readouterr().err
    assert (html / "index.html").read_text() == "the last good book"
    assert not list(html.parent.glob(".build-*"))


@pytest.mark.notebook
def test_a_stopped_build_takes_its_kernel_along(tiny: Path, tmp_path: Path, write_chapter: Callable[..., None]) -> None:
    note = tmp_path / "kernel"
    code = f"import os, pathlib, time\npathlib.Path({str(note)!r}).write_text(str(os.getpid()))\ntime.sleep(300)"
    write_chapter(tiny / "chapters" / "one.ipynb", code)
    command = [sys.executable, "-m", "mastlib.book", "--book", str(tiny), "--tier", "smoke"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as build:
        wait_until(lambda: note.is_file() and note.read_text() != "")
        build.send_signal(signal.SIGTERM)
        _, said = build.communicate(timeout=30)
    assert (build.returncode, said) == (130, "book: interrupted; the last good book is as it was\n")
    wait_until(lambda: not alive(int(note.read_text())))
    assert not list((outputs_dir() / "executed" / "smoke" / "chapters").iterdir())


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.05)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_every_tier_has_its_banner() -> None:
    assert list(publish.BANNER) == list(TIERS)


def test_two_builds_at_once_are_refused(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = outputs_dir() / "book"
    folder.mkdir()
    with open(folder / ".lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert make(tiny) == 2
    assert "another build of this book is under way" in capsys.readouterr().err


def test_imported_modules_are_found_in_every_form(tmp_path: Path, write_chapter: Callable[..., None]) -> None:
    write_chapter(
        tmp_path / "one.ipynb",
        "%matplotlib inline\nimport numpy, mastlib.stats\nfrom mastlib import chapter, plots",
        "!ls\nif True:\n    %time 1\n    from mastlib.data import bank\n    from mastlib.runs import fit",
    )
    found = book.imported_modules(nbformat.read(tmp_path / "one.ipynb", as_version=4))
    assert found == {"mastlib.stats", "mastlib.chapter", "mastlib.plots", "mastlib.data.bank", "mastlib.runs"}


def test_the_page_checks_find_what_they_are_for(
    tmp_path: Path, fetched_from_elsewhere: Callable[[Path], list[str]], images_without_alt: Callable[[Path], list[str]]
) -> None:
    page = '<a href="https://a"></a><script src="//b/x.js"></script><link rel="stylesheet" href="https://c/y.css">'
    (tmp_path / "a.html").write_text(page + '<img src="z.png" alt="_images/0123456789abcdef0.png"><img src="w.png">')
    (tmp_path / "b.html").write_text('<script src="x.js"></script><img src="z.png" alt="Accuracy by method">')
    (tmp_path / "c.css").write_text("body { background: url('https://d/e.png') }")
    assert fetched_from_elsewhere(tmp_path) == ["//b/x.js", "https://c/y.css", "https://d/e.png"]
    assert images_without_alt(tmp_path) == ["a.html", "a.html"]


@pytest.fixture
def two(tiny: Path, write_chapter: Callable[..., None]) -> Path:
    """The tiny book with a second chapter, which reads evidence."""
    code = "from mastlib.ledger.kept import handed_over\nprint(len(handed_over(tier)))"
    write_chapter(tiny / "chapters" / "two.ipynb", "from myst_nb import glue\nglue('half', 1.0, display=False)", code)
    toc = (tiny / "_toc.yml").read_text()
    (tiny / "_toc.yml").write_text(toc.replace("chapters/one\n", "chapters/one\n- file: chapters/two\n"))
    return tiny


@pytest.mark.notebook
def test_what_is_done_is_shown_before_the_rest_with_when_it_comes(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "PATIENCE", -1.0)
    shown: list[dict[str, str]] = []

    def keep(source: Path, html: Path, *, strict: bool = True) -> Path:
        shown.append(
            {path.name: path.read_text() for path in (source / "chapters").iterdir()} | {"strict": str(strict)}
        )
        return html / "index.html"

    monkeypatch.setattr(book, "make_html", keep)
    times = outputs_dir() / "smoke" / "times.json"
    times.parent.mkdir()
    times.write_text('{"one": {"quick": 1e-3}, "two": {"quick": 1e9}}')
    assert make(two) == 0
    early, last = shown
    assert early["strict"] == "False" and "one.ipynb" in early and "two.ipynb" not in early
    assert "still to be executed, in about" in early["two.md"] and early["two.md"].startswith("# One\n")
    assert last["strict"] == "True" and "two.ipynb" in last and "two.md" not in last
    assert make(two) == 0 and len(shown) == 3, "nothing to execute, nothing to show early"


@pytest.mark.notebook
def test_a_page_that_reads_evidence_is_executed_again_when_there_is_other_evidence(two: Path) -> None:
    chapters = book.plan(two, "smoke", {})[1]
    assert [chapter.reads_evidence for chapter in chapters] == [False, True]

    def said() -> str:
        notebook = nbformat.read(book.execute(chapters[1], "smoke"), as_version=4)
        return notebook.cells[-1].outputs[0].text + str(notebook.cells[-1].metadata.papermill.start_time)

    first = said()
    assert said() == first and first.startswith("0\n")
    folder = outputs_dir() / "smoke" / "evidence"
    folder.mkdir(parents=True)
    (folder / "one.json").write_text('{"chapter": "one", "parameters": {}, "runs": [], "tables": {}}')
    assert said().startswith("1\n")


@pytest.mark.notebook
def test_a_fresh_book_takes_nothing_that_is_there_and_goes_on_where_one_was_ended(
    tiny: Path, tmp_path: Path, write_chapter: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    assert make(tiny, "--only", "one") == 0
    write_chapter(tiny / "chapters" / "two.ipynb", "1 / 0")
    toc = (tiny / "_toc.yml").read_text()
    (tiny / "_toc.yml").write_text(toc.replace("chapters/one\n", "chapters/one\n- file: chapters/two\n"))
    for expected in (2, 2):  # one is executed anew once: the second call goes on
        assert make(tiny, "--fresh") == 1
        assert (tmp_path / "marks").read_text().count("\n") == expected
    assert "nothing changed" in capfd.readouterr().out
    for expected in (2, 3):  # a book that was finished is begun anew
        assert make(tiny, "--fresh", "--only", "one") == 0
        assert (tmp_path / "marks").read_text().count("\n") == expected
    assert (outputs_dir() / "executed" / "smoke" / "chapters" / "one.ipynb").is_file()
    assert outputs_dir().name == "outputs {too}"
