"""The catalogue of methods as tables, all of it read from the code: papers, parts, settings, pairs, sizes, costs, switches."""

from __future__ import annotations

import dataclasses
import re
import statistics
import sys
from typing import Any

import pandas as pd
import torch
from torch import nn

from mastlib.augment.presets import get_pipeline
from mastlib.cost import ratio, step_seconds
from mastlib.data import bank
from mastlib.data.pretraining import pretraining_images
from mastlib.errors import check_choice
from mastlib.methods import AWARENESS, HOSTS, REFUSED, build_method, method_class
from mastlib.methods.base import Method
from mastlib.methods.moco import Queue
from mastlib.models.heads import Projector
from mastlib.precision import resolve
from mastlib.spec import RunSpec
from mastlib.tiers import PUBLISHED_BY, published, tier_spec

#: Keys of references.bib.
CITED: dict[str, tuple[str, ...]] = {
    "vicreg": ("bardes2022vicreg",), "simclr": ("chen2020simclr",), "moco": ("he2020moco", "chen2020mocov2"),
    "simsiam": ("chen2021simsiam",), "byol": ("grill2020byol",), "swav": ("caron2020swav",),
    "barlow": ("zbontar2021barlow",), "supervised": (), "none": (), "augself": ("lee2021augself",),
    "cassle": ("przewiezlikowski2024cassle",), "mast": ("huang2023mast",), "looc": ("xiao2021looc",),
}  # fmt: skip
#: Forms of an awareness with a name of their own, counted and timed beside it: what they are a form of, and their settings.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {"looc++": ("looc", {"looc_stages": True})}
STATED, IDEA, OURS = "stated by the paper", "idea stated, form ours", "reconstruction"
#: Settings that MAST shares with other methods and that decide what its masks are learned from.
SHARED_WITH_MAST = ("augmentations", "pairing", "crop_redrawn", "isolated")


def pair_spec(tier: str, host: str, awareness: str, **changes: Any) -> RunSpec:
    """`tier_spec` of `host` with `awareness` and the pairing, or the form of its loss, that the two need together.

    MAST: isolated pairs, and on a contrastive host subspace_loss "D"; LooC: its query and keys; AugSelf: those of its usual
    targets that the views differ in, if there are any.
    `awareness` may be one of VARIANTS. Raises InputError, with the reason, for a pair that is refused.
    """
    check_choice("host", host, HOSTS)
    check_choice("awareness", awareness, (*AWARENESS, *VARIANTS))
    base, settings = VARIANTS.get(awareness, (awareness, {}))
    needs = dict(settings)
    if base == "mast":
        needs |= {"pairing": "isolate_one"}
        if host in ("moco", "simclr"):
            needs |= {"subspace_loss": "D"}
    elif base == "looc":
        needs |= {"pairing": "leave_one_out"}
    elif base == "augself":
        plain = tier_spec(
            tier, host=host, **{n: v for n, v in changes.items() if n in ("augmentations", "without", "image_size")}
        )
        differ = get_pipeline(plain.augmentations, plain.image_size, plain.without).names
        targets = [target for target in plain.augself_tasks if target in differ]
        if targets and len(targets) < len(plain.augself_tasks):
            needs |= {"augself_tasks": targets, "augself_weights": [1.0] * len(targets)}
    return tier_spec(tier, host=host, awareness=base, **{**needs, **changes})


def hosts(width: int) -> pd.DataFrame:
    """A row for each host: class, paper, keys, loss (its docstring's first line), parts, projector, published settings.

    `projector`: the paper's widths behind a backbone of `width` features; `own`: the settings that only some hosts have.
    """
    rows = []
    for name in HOSTS:
        kind, spec = method_class(HOSTS[name]), published(name)
        row = {"host": name, **_described(name, kind), "parts": ", ".join(_parts(_tiny(name, "none")))}
        row |= {"projector": "-".join(map(str, kind.paper_sizes(width))), **_settings(spec)}
        own = [f for f in _fields("host", name) if f.name != "projector"]
        row |= {"own": ", ".join(f"{f.name} {getattr(spec, f.name)}" for f in own), "settings of": PUBLISHED_BY[name]}
        rows.append(row)
    return pd.DataFrame(rows)


def awarenesses() -> pd.DataFrame:
    """A row for each awareness: class, paper, keys, what it does, what it adds, its pairing, its hosts, its settings."""
    rows = []
    for name in AWARENESS:
        fits = [host for host in HOSTS if (host, name) not in REFUSED]
        method, spec = _tiny(fits[0], name), pair_spec("smoke", fits[0], name)
        added = [child for child, _ in method.aware.named_children()]
        if type(method.projector) is not Projector:
            added.insert(0, type(method.projector).__name__)
        row = {"awareness": name, **_described(name, method_class(AWARENESS[name]), "does"), "adds": ", ".join(added)}
        row |= {"pairing": spec.pairing, "hosts": ", ".join(fits)}
        rows.append(row | {"settings": ", ".join(f.name for f in _fields("awareness", name))})
    return pd.DataFrame(rows)


def pairs() -> pd.DataFrame:
    """A row for each host with each awareness: `allowed`, and where it is not, the sentence why."""
    rows = [
        (host, one, (host, one) not in REFUSED, REFUSED.get((host, one), "")) for host in HOSTS for one in AWARENESS
    ]
    return pd.DataFrame(rows, columns=["host", "awareness", "allowed", "why not"])


def parameters(tier: str, **changes: Any) -> pd.DataFrame:
    """A row for each pair and variant: parameters of the methods as they are built at `tier` with `changes`.

    `backbone` is what transfers; `projector`, `heads` (the host's others) and `aware` are trained and then dropped, their
    sum is `dropped`; `added` is what the awareness added to the host's. `still`: slow copies, never trained by a gradient.
    `queue`: stored numbers of earlier keys, no parameters.
    """
    rows: list[dict[str, Any]] = []
    alone: dict[str, int] = {}
    for host, awareness in _allowed():
        count = count_parameters(_built(pair_spec(tier, host, awareness, **changes)))
        alone.setdefault(host, count["dropped"])
        rows.append({"host": host, "awareness": awareness, **count, "added": count["dropped"] - alone[host]})
    return pd.DataFrame(rows)


def count_parameters(method: Method) -> dict[str, int]:
    """The columns of `parameters` for one method, but for `added`."""
    trained = {name: p.numel() for name, p in method.named_parameters() if p.requires_grad}
    of = {part: sum(n for name, n in trained.items() if name.startswith(f"{part}.")) for part in _COUNTED}
    dropped = sum(trained.values()) - of["backbone"]
    return {
        "backbone": of["backbone"],
        "projector": of["projector"],
        "heads": dropped - of["projector"] - of["aware"],
        "aware": of["aware"],
        "dropped": dropped,
        "still": sum(p.numel() for p in method.parameters() if not p.requires_grad),
        "queue": sum(m.rows.numel() for m in method.modules() if isinstance(m, Queue)),
    }


_COUNTED = ("backbone", "projector", "aware")


def cost(tier: str, rounds: int, **changes: Any) -> pd.DataFrame:
    """A row for each pair and variant: median `seconds` of a training step measured now, and its `ratio` to the host's alone.

    The steps of a host and of all that is allowed with it take turns; `ratio` is the median over the rounds, `least` and
    `greatest` bound it. `views` are the views of an image in a step. Views are not compiled unless `changes` say so.
    """
    images, rows = None, []
    for host in HOSTS:
        specs = {one: pair_spec(tier, of, one, **{"compile": "off", **changes}) for of, one in _allowed() if of == host}
        specs = {one: resolve(spec) for one, spec in specs.items()}
        spec = specs["none"]
        if images is None:
            images = pretraining_images(spec.data, spec.images, spec.image_size)
        batch = images[: spec.batch_size].to("cuda" if torch.cuda.is_available() else "cpu")
        seconds = step_seconds(specs, batch, rounds)
        count = len(get_pipeline(spec.augmentations, spec.image_size, spec.without).names)
        for one in specs:
            views = {"leave_one_out": count + 2, "isolate_each": count + 1}.get(specs[one].pairing, 2)
            rows.append((host, one, views, statistics.median(seconds[one]), *ratio(seconds, one, "none")))
    return pd.DataFrame(rows, columns=["host", "awareness", "views", "seconds", "ratio", "least", "greatest"])


def mast_switches() -> pd.DataFrame:
    """A row for each of MAST's settings: meaning, default, what is accepted, when it counts, source, and its `basis`.

    `basis` follows from the source: STATED where it is MAST's paper alone, IDEA where others are named beside it, OURS
    where it is not named, or "this book" is.
    """
    fields = {f.name: f for f in dataclasses.fields(RunSpec)}
    mine = [*(fields[name] for name in SHARED_WITH_MAST), *_fields("awareness", "mast")]
    rows = []
    for f in mine:
        told = f.metadata
        needs = {other: values for other, values in told["only_with"].items() if other != "awareness"}
        when = "; ".join(f"{other} {' or '.join(map(str, values))}" for other, values in needs.items())
        row = {"switch": f.name, "meaning": told["doc"].rstrip("."), "default": str(f.default)}
        row |= {"accepted": told["accepted"], "counts with": when, "source": told["source"].rstrip(".")}
        rows.append(row | {"basis": basis(told["source"])})
    return pd.DataFrame(rows)


def basis(source: str) -> str:
    """What a setting's source says of MAST's paper: STATED, IDEA or OURS (see `mast_switches`)."""
    if "Huang et al. 2023" not in source or "this book" in source:
        return OURS
    return STATED if source.rstrip(".").startswith("Huang et al. 2023") and ";" not in source else IDEA


def _allowed() -> list[tuple[str, str]]:
    """Every host with every awareness, and variant, that goes with it."""
    base = {one: one for one in AWARENESS} | {name: form_of for name, (form_of, _) in VARIANTS.items()}
    return [(host, one) for host in HOSTS for one in base if (host, base[one]) not in REFUSED]


def _fields(kind: str, name: str) -> list[dataclasses.Field[Any]]:
    """The settings that count only with `kind` ("host" or "awareness") being `name`, or one of a few."""
    return [f for f in dataclasses.fields(RunSpec) if name in f.metadata["only_with"].get(kind, ())]


def _described(name: str, kind: type, says: str = "loss") -> dict[str, str]:
    """Class, paper and keys, and the first line of the class's docstring as column `says`."""
    text = " ".join((sys.modules[kind.__module__].__doc__ or "").split("\n\n")[0].split())
    cited = re.match(r"([\w ]+?) \((.*?)\)", text) if CITED[name] else None
    line = (kind.__doc__ or "").strip().split("\n")[0].rstrip(".")
    paper = f"{cited[1]}: {cited[2]}" if cited else ""
    return {"class": kind.__name__, "paper": paper, "keys": ", ".join(CITED[name]), says: line}


def _settings(spec: RunSpec) -> dict[str, Any]:
    names = ("optimizer", "lr", "weight_decay", "batch_size", "epochs", "augmentations")
    return {name: getattr(spec, name) for name in names}


def _parts(method: Method) -> list[str]:
    """Names of what a host holds besides the backbone and the awareness."""
    modules = [name for name, module in method.named_children() if not isinstance(module, nn.Identity)]
    own = [name for name, _ in method.named_parameters(recurse=False)]
    return [name for name in [*modules, *own] if name not in ("backbone", "aware")]


def _tiny(host: str, awareness: str) -> Method:
    return _built(pair_spec("smoke", host, awareness))


def _built(spec: RunSpec) -> Method:
    """The method of `spec`, with a supervised host's classes counted in the bank."""
    names = get_pipeline(spec.augmentations, spec.image_size, spec.without).names
    with torch.random.fork_rng(devices=[]):
        return build_method(spec, names, bank.load_table()["category"].nunique())
