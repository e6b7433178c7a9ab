"""The source a run executes, as hashes: part of a run's identity, so that changed code never returns an old result."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from mastlib.errors import refuse


def source_closure(*modules: str, package: Path | None = None) -> dict[str, str]:
    """`modules` and every module of the package they import, directly or not: name -> sha256 of its code.

    Imports inside functions and the `__init__` of each package on the way count. A module that is imported by a name
    computed at run time is not seen: name it as a start. Comments, formatting, docstrings and texts given as `doc=...`
    do not change a hash; anything else does, in the same way on every Python version.

    modules: dotted names, such as "mastlib.training". package: the package's folder, by default this one.
    Raises InputError for a start that is no module of the package.
    """
    root = package or Path(__file__).parent
    for name in modules:
        if _file(name, root) is None:
            raise refuse("module", name, f"a module of the package {root.name}")
    found: dict[str, str] = {}
    waiting = [prefix for name in modules for prefix in _prefixes(name)]
    while waiting:
        name = waiting.pop()
        file = _file(name, root)
        if name in found or file is None:  # None: a function or class, or another package
            continue
        found[name], imported = _analysed(file.read_bytes(), name, file.name == "__init__.py")
        waiting += imported
    return dict(sorted(found.items()))


def combine(closure: Mapping[str, str]) -> str:
    """One sha256 for a whole closure."""
    return hashlib.sha256(json.dumps(closure, sort_keys=True).encode()).hexdigest()


def closure_hash(*modules: str, package: Path | None = None) -> str:
    """One sha256 for all the code that `modules` reach; see `source_closure`."""
    return combine(source_closure(*modules, package=package))


@functools.cache  # of the content, not the path: an edited file is read anew
def _analysed(source: bytes, name: str, is_package: bool) -> tuple[str, tuple[str, ...]]:
    """A module's hash and the dotted names it may import."""
    tree = ast.parse(source)
    return hashlib.sha256(_canonical(tree).encode()).hexdigest(), tuple(_imports(tree, name, is_package))


def _file(name: str, root: Path) -> Path | None:
    head, *rest = name.split(".")
    if head != root.name:
        return None
    path = root.joinpath(*rest)
    candidates = [path / "__init__.py", path.with_name(f"{path.name}.py")] if rest else [path / "__init__.py"]
    return next((file for file in candidates if file.is_file()), None)


def _prefixes(name: str) -> list[str]:
    """Python runs `a` and `a.b` before `a.b.c`."""
    parts = name.split(".")
    return [".".join(parts[:stop]) for stop in range(1, len(parts) + 1)]


def _imports(tree: ast.AST, importer: str, is_package: bool) -> Iterator[str]:
    """Every dotted name that `importer` may import, with prefixes; names that are no modules are sorted out later."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _prefixes(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:  # relative: one level up is the package itself from an __init__, else the module's package
                above = importer.split(".")
                base = above[: len(above) - node.level + is_package] + base
            yield from _prefixes(".".join(base))
            for alias in node.names:
                yield ".".join([*base, alias.name])


def _canonical(node: object) -> str:
    """What the code says, not how it is written; `ast.dump` would do, but its text depends on Python's version."""
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = []
    for name, value in ast.iter_fields(node):
        if isinstance(value, list):
            value = [item for item in value if not _is_documentation(item)]
        # ctx (read or written) follows from the place, kind tells u"" from "", empty fields come and go with versions.
        if name not in ("ctx", "kind") and value is not None and value != []:
            fields.append(f"{name}={_canonical(value)}")
    return f"{type(node).__name__}({','.join(fields)})"


def _is_documentation(node: object) -> bool:
    """A bare string (docstring), or `doc="..."` in a call."""
    if isinstance(node, ast.Expr) or (isinstance(node, ast.keyword) and node.arg == "doc"):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return False
