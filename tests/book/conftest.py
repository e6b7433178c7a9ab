"""A tiny book with the real configuration, and what to ask of built pages."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

REAL = Path(__file__).parents[2]
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


class _Page(HTMLParser):
    """What a browser fetches for a page by itself, and the images on it."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.alts: list[str | None] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        of = dict(attributes)
        if tag in ("script", "img", "iframe", "source", "embed", "video", "audio"):
            self.fetched.append(of.get("src") or "")
        elif tag == "link" and of.get("rel") not in ("canonical", "index", "search", "next", "prev"):
            self.fetched.append(of.get("href") or "")
        if tag == "img":
            self.alts.append(of.get("alt"))


def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


@pytest.fixture(scope="session")
def fetched_from_elsewhere() -> Callable[[Path], list[str]]:
    """Of a folder of HTML: the addresses on other hosts that its pages and style sheets load."""

    def find(html: Path) -> list[str]:
        outside = [
            url for path in html.rglob("*.html") for url in _read(path).fetched if re.match(r"(https?:)?//", url)
        ]
        styles = [path.read_text(encoding="utf-8", errors="replace") for path in html.rglob("*.css")]
        return outside + [url for text in styles for url in re.findall(r"""url\(["']?((?:https?:)?//[^)"']+)""", text)]

    return find


@pytest.fixture(scope="session")
def images_without_alt() -> Callable[[Path], list[str]]:
    """Of a folder of HTML: the pages with an image whose alternative text is missing or a file's hash."""

    def find(html: Path) -> list[str]:
        bad = re.compile(r"|.*[0-9a-f]{16}.*|.*\.(png|svg)")
        return [
            str(p.relative_to(html)) for p in html.rglob("*.html") for alt in _read(p).alts if bad.fullmatch(alt or "")
        ]

    return find


@pytest.fixture
def write_chapter() -> Callable[..., None]:
    """Write a clean chapter: title, parameters, the check of the parameters, and further cells."""

    def write(path: Path, *code: str, parameters: str = 'tier: str = "laptop"  # size\nn: int = 2  # count') -> None:
        cells = [
            v4.new_markdown_cell("# One\n\nIt is {glue:text}`half:.2f`, with {cite:t}`huang2023mast` and $x^2$."),
            v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
            *[v4.new_code_cell(source) for source in code],
        ]
        for index, cell in enumerate(cells):
            cell.id = f"cell-{index}"
        path.parent.mkdir(exist_ok=True)
        nbformat.write(v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL}), path)

    return write


@pytest.fixture
def tiny(tmp_path: Path, write_chapter: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a book of a landing page, one chapter that leaves a mark when executed, and the references."""
    root = tmp_path / "root {with} braces"
    root.mkdir()
    monkeypatch.setenv("MASTLIB_OUTPUTS", str(tmp_path / "outputs {too}"))
    for name in ("_config.yml", "references.bib"):
        shutil.copy(REAL / name, root / name)
    for name in ("_static", "_extra"):
        shutil.copytree(REAL / name, root / name)
    (root / "index.md").write_text("# Tiny\n\nNothing much.\n")
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: index\nchapters:\n- file: chapters/one\n- file: chapters/references\n"
    )
    mark = f"with open({str(tmp_path / 'marks')!r}, 'a') as file:\n    file.write(f'{{tier}} {{n}}\\n')"
    glue = "from myst_nb import glue\nglue('half', n / 4, display=False)"
    write_chapter(root / "chapters" / "one.ipynb", mark, glue)
    (root / "chapters" / "references.md").write_text("# References\n\n```{bibliography}\n```\n")
    return root
