"""The hash of the code that a run executes: what changes it, what does not, and which modules it follows."""

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import mastlib
from mastlib.closure import closure_hash, combine, source_closure
from mastlib.errors import InputError

BODY = '''
"""About the module."""
from fake.leaf import number

def f(x):
    """Twice."""
    return x * 2  # doubled
'''


@pytest.fixture
def package(tmp_path):
    def write(**sources):
        for name, source in sources.items():
            path = tmp_path / "fake" / (name.replace("__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            for folder in [p for p in path.parents if p != tmp_path and p.is_relative_to(tmp_path)]:
                (folder / "__init__.py").touch()
            path.write_text(textwrap.dedent(source))
        return tmp_path / "fake"

    return write


def names(root, *starts):
    return set(source_closure(*starts, package=root))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("About the module.", "All about the module."),
        ('    """Twice."""\n', ""),
        ("# doubled", "# two times"),
        ("x * 2", "(x\n        *  2)"),
        ("def f(x):", "def f(\n    x,\n):"),
        ("x * 2", "x * 0x2"),
    ],
)
def test_words_and_layout_do_not_count(package, old, new):
    root = package(main=BODY, leaf="number = 1")
    before = closure_hash("fake.main", package=root)
    changed = BODY.replace(old, new)
    assert changed != BODY
    package(main=changed)
    assert closure_hash("fake.main", package=root) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x * 2", "x * 3"),
        ("x * 2", "x * 2.0"),
        ("x * 2", "x * '2'"),
        ("x * 2", "2 * x"),
        ("def f(x):", "def f(x=None):"),
        ("def f(x):", "async def f(x):"),
        ("return x * 2", "x * 2"),
        ("def f", "@number\ndef f"),
    ],
)
def test_code_counts(package, old, new):
    root = package(main=BODY, leaf="number = 1")
    before = closure_hash("fake.main", package=root)
    package(main=BODY.replace(old, new))
    assert closure_hash("fake.main", package=root) != before


def test_doc_texts_do_not_count_and_other_texts_do(package):
    root = package(main="a = setting(1, doc='One.', unit='m')")
    before = closure_hash("fake.main", package=root)
    package(main="a = setting(1, doc='The one.', unit='m')")
    assert closure_hash("fake.main", package=root) == before
    package(main="a = setting(1, unit='m')")
    assert closure_hash("fake.main", package=root) == before
    package(main="a = setting(1, doc=2, unit='m')")
    assert closure_hash("fake.main", package=root) != before
    package(main="a = setting(1, doc='One.', unit='cm')")
    assert closure_hash("fake.main", package=root) != before


def test_a_change_anywhere_below_counts_and_elsewhere_does_not(package):
    root = package(main=BODY, leaf="number = 1", other="unused = 1")
    before = closure_hash("fake.main", package=root)
    package(other="unused = 2")
    assert closure_hash("fake.main", package=root) == before
    package(leaf="number = 2")
    assert closure_hash("fake.main", package=root) != before


@pytest.mark.parametrize(
    "statement",
    [
        "import fake.deep.leaf",
        "import numpy, fake.deep.leaf as x",
        "from fake.deep import leaf",
        "from fake.deep.leaf import value",
        "from fake.deep.leaf import *",
        "from .deep import leaf",
        "from .deep.leaf import value",
        "from . import deep\nfrom fake.deep import leaf as renamed",
        "def f():\n    from fake.deep import leaf\n",
        "class A:\n    def f(self):\n        import fake.deep.leaf\n",
        "try:\n    import fake.deep.leaf\nexcept ImportError:\n    pass\n",
    ],
)
def test_follows_every_kind_of_import_and_counts_packages_on_the_way(package, statement):
    root = package(main=statement, deep__leaf="value = 1")
    assert names(root, "fake.main") == {"fake", "fake.main", "fake.deep", "fake.deep.leaf"}


def test_follows_imports_transitively_round_circles_and_upwards(package):
    root = package(main="import fake.a", a="from fake import b", b="import fake.a", deep__up="from .. import b")
    assert names(root, "fake.main") == {"fake", "fake.main", "fake.a", "fake.b"}
    assert names(root, "fake.deep.up") == {"fake", "fake.deep", "fake.deep.up", "fake.b", "fake.a"}


def test_relative_imports_of_a_package_start_at_itself(package):
    root = package(main="import fake.deep", deep__leaf="")
    (root / "deep" / "__init__.py").write_text("from . import leaf\nfrom .leaf import x")
    assert names(root, "fake.main") == {"fake", "fake.main", "fake.deep", "fake.deep.leaf"}


def test_other_packages_and_names_that_are_no_modules_are_left_out(package):
    root = package(main="import torch\nfrom fakery import x\nfrom fake.leaf import number", leaf="number = 1")
    assert names(root, "fake.main") == {"fake", "fake.main", "fake.leaf"}


@pytest.mark.parametrize("start", ["fake.absent", "other.main", "fake.main.f", ""])
def test_an_unknown_start_is_refused(package, start):
    root = package(main=BODY)
    with pytest.raises(InputError, match="module = "):
        source_closure(start, package=root)


def test_the_hash_stands_for_names_and_contents(package):
    root = package(main="import fake.leaf", leaf="number = 1", leaf2="number = 1")
    closure = source_closure("fake.main", package=root)
    assert closure_hash("fake.main", package=root) == combine(closure) == combine(dict(reversed(closure.items())))
    renamed = {name.replace("leaf", "leaf2"): value for name, value in closure.items()}
    assert combine(renamed) != combine(closure)
    assert all(len(value) == 64 for value in closure.values())


def test_closure_of_this_package_holds_what_an_import_loads():
    """Python itself says which of our modules it loads; the closure must hold them all."""
    code = "import sys, mastlib.spec; print(*[m for m in sys.modules if m.split('.')[0] == 'mastlib'])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) <= set(source_closure("mastlib.spec"))


def test_two_files_share_a_hash_only_if_ast_dump_agrees():
    """Against the standard library's own dump, on every file of this package."""
    root = Path(mastlib.__file__).parent
    ours, theirs = set(), set()
    for path in root.rglob("*.py"):
        name = ".".join(["mastlib", *path.relative_to(root).with_suffix("").parts]).removesuffix(".__init__")
        tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
            if documented is not None and documented is not False:
                del node.body[0]
        ours.add(source_closure(name)[name])
        theirs.add(ast.dump(tree))
    assert len(ours) == len(theirs) > 10
