"""What a notebook calls: its parameters checked, its numbers handed to the prose. Needs no notebook package."""

from __future__ import annotations

import ast
import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from mastlib.errors import InputError, check_choice, refuse
from mastlib.tiers import TIERS

_TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict}


def parameters(namespace: Mapping[str, Any]) -> Any:
    """The chapter's parameters, checked, as a frozen dataclass: `run = parameters(globals())` in the cell after them.

    Names and types are those of the newest executed cell of typed assignments that declares `tier`; values are the
    namespace's, so that papermill's injected values and single cells run again in JupyterLab both count.
    Raises InputError for a name injected by papermill that the cell does not declare, and for a value of another type.
    """
    history: list[str] = [*namespace.get("In", [])]
    kinds = next((kinds for cell in reversed(history) if "tier" in (kinds := _kinds(cell))), None)
    if kinds is None:
        raise InputError('no parameters yet: first run the cell of typed assignments that holds tier: str = "..."')
    injected = next((cell for cell in reversed(history) if cell.startswith("# Parameters\n")), "")
    missing = next((name for name in kinds if name not in namespace), None)
    if missing:
        raise InputError(f"parameter {missing} has no value; run the parameters cell again")
    check_parameters(kinds, dict.fromkeys(_assigned(injected)) | {name: namespace[name] for name in kinds})
    fields = [(name, Any, dataclasses.field()) for name in kinds]
    made = dataclasses.make_dataclass("Parameters", fields, frozen=True)
    return made(**{name: copy.deepcopy(namespace[name]) for name in kinds})


def report(**values: float | str) -> dict[str, float | str]:
    """Hand numbers (and words) to the chapter's prose, which shows them as ``{glue:text}`name:.2f` ``; returns them.

    Numbers become Python floats, because formats fail on NumPy's scalars. Outside a notebook they are printed.
    Raises InputError for what is neither a number nor a string.
    """
    plain = {name: value if isinstance(value, str) else _number(name, value) for name, value in values.items()}
    for name, value in plain.items():
        _glue(name, value)
    return plain


def declared(source: str) -> dict[str, tuple[Any, Any]]:
    """Name -> (type, default) of a parameters cell's source, which holds typed literal assignments and nothing else."""
    kinds = _kinds(source)
    if not kinds:
        raise InputError("the parameters cell must hold typed assignments only, such as: seeds: list[int] = [0, 1]")
    found: dict[str, tuple[Any, Any]] = {}
    for node in _typed_assignments(source):
        name = ast.unparse(node.target)
        try:
            found[name] = (kinds[name], ast.literal_eval(node.value or ast.Constant(None)))
        except ValueError:
            raise InputError(f"parameter {name} must be a plain value, not computed: {ast.unparse(node)}") from None
    return found


def check_parameters(kinds: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """InputError for the first of `values` that is not declared in `kinds` (name -> type) or of another type."""
    for name, value in values.items():
        if name not in kinds:
            raise InputError(f"unknown parameter {name}; this chapter takes: {', '.join(kinds)}")
        if not _fits(value, kinds[name]):
            raise refuse(name, value, f"a value of type {_spell(kinds[name])}")
        if name == "tier":
            check_choice("tier", value, TIERS)


def _statements(source: str) -> list[ast.stmt]:
    """What `source` parses to; nothing for a cell that a reader left with a syntax error."""
    try:
        return ast.parse(source).body
    except SyntaxError:
        return []


def _typed_assignments(source: str) -> list[ast.AnnAssign]:
    """The statements of `source` if all are typed assignments to plain names, else none."""
    body = _statements(source)
    typed = [
        node for node in body if isinstance(node, ast.AnnAssign) and node.value and isinstance(node.target, ast.Name)
    ]
    return typed if len(typed) == len(body) else []


def _kinds(source: str) -> dict[str, Any]:
    """Name -> type of the typed assignments in `source`; empty where the source holds anything else."""
    kinds = {}
    for node in _typed_assignments(source):
        try:
            kinds[ast.unparse(node.target)] = eval(ast.unparse(node.annotation), {"__builtins__": _TYPES})
        except (NameError, TypeError):
            known = ", ".join(_TYPES)
            raise InputError(f"{ast.unparse(node)}: the type of a parameter is made of {known} and None") from None
    return kinds


def _assigned(source: str) -> Iterator[str]:
    """Names that the statements of `source` assign."""
    for node in _statements(source):
        if isinstance(node, ast.Assign):
            yield from (ast.unparse(target) for target in node.targets)
        elif isinstance(node, ast.AnnAssign):
            yield ast.unparse(node.target)


def _fits(value: Any, kind: Any) -> bool:
    """Whether `value` is of type `kind`: no bool as a number, an int as a float, every element of a list or dict."""
    inner = get_args(kind)
    if get_origin(kind) is UnionType:
        return any(_fits(value, one) for one in inner)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(element, inner[0]) for element in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if kind is None or kind is NoneType:
        return value is None
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, kind)


def _spell(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise refuse(name, value, "a number or a string") from None


def _glue(name: str, value: float | str) -> None:
    try:
        from IPython import get_ipython
        from myst_nb import glue
    except ImportError:
        print(f"{name} = {value}")
        return
    if get_ipython() is None:
        print(f"{name} = {value}")
    else:
        glue(name, value, display=False)
