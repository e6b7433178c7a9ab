"""What may be done with the runs of a store besides reading them: compare, check, throw away, give to others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mastlib import checkpoints
from mastlib.data import bank
from mastlib.errors import InputError, check_choice, refuse
from mastlib.files import atomic, disk, write_text
from mastlib.locks import alone
from mastlib.runs import FINISHED, RESUME, OtherVersion, Run, RunStore
from mastlib.spec import RunSpec
from mastlib.training import whole

STATUSES = [*FINISHED, "damaged", "outdated"]  # by which runs are thrown away
FACTS = ["run_id", "status", "finished", "seconds"]


def listed(store: RunStore) -> pd.DataFrame:
    """A row for each finished run, oldest first: id, status, when, seconds, and the fields of the spec in which runs differ."""
    table = store.runs()
    differ = [name for name in RunSpec.__dataclass_fields__ if table[name].astype(str).nunique() > 1]
    return table[[*FACTS, *differ]]


def problems(store: RunStore) -> list[str]:
    """A line for each damaged file of the store, hashed anew: those of finished runs, and checkpoints of unfinished ones."""
    found = []
    for identity in store.identities():
        try:
            store.read(identity).verify()
        except OtherVersion:
            continue
        except InputError as error:
            found.append(f"{identity}: {error}")
    for identity in store.unfinished():
        for path in checkpoints.found(store.working(identity) / RESUME):
            try:
                checkpoints.read(path)
            except InputError as error:
                found.append(f"{identity}: {error}")
    return found


def prune(
    store: RunStore, *, statuses: Sequence[str] = (), unfinished: bool = False, really: bool = False
) -> list[Path]:
    """The folders of finished runs with one of `statuses`, or "damaged", or "outdated" (of a version of the package that had other
    settings), and of `unfinished` ones; deleted only if `really`.

    A run that a process is making is waited for, and stays. Raises InputError for another status, or a disk that refuses.
    """
    for status in statuses:
        check_choice("status", status, STATUSES)
    chosen: list[tuple[str, Path]] = []
    for identity in store.identities():
        try:
            status = store.read(identity).info["status"]
        except OtherVersion:
            status = "outdated"
        except InputError:
            status = "damaged"
        if status in statuses:
            chosen.append((identity, store.folder(identity)))
    if unfinished:
        chosen += [(identity, store.working(identity)) for identity in store.unfinished()]
    if really:
        for identity, folder in chosen:
            with alone(store.folder(identity)), disk(folder):
                if folder.is_dir():
                    shutil.rmtree(folder)
    return [folder for _, folder in chosen]


def export(run: Run, folder: Path) -> None:
    """The backbone for other programs into the new folder `folder`: backbone.safetensors, spec.json and a model card, README.md.

    A record is trained first. Raises InputError where `folder` exists, the run is damaged or diverged, or the disk refuses.
    """
    if run.info["status"] == "diverged":
        raise refuse("run", run.id, f"a run that did not diverge ({run.info['reason']})")
    if folder.exists():
        raise refuse("folder", str(folder), "a folder that is not there yet")
    run = whole(run)
    run.verify()
    text = card(run)
    with disk(folder):
        folder.mkdir(parents=True)
        for name in ("backbone.safetensors", "spec.json"):
            with atomic(folder / name) as path:
                shutil.copyfile(run.folder / name, path)
    write_text(folder / "README.md", text)


def card(run: Run) -> str:
    """The model card of `run` in Markdown: what it is, what it was trained on and how, what it was measured to do, whose images."""
    spec, info = run.spec, run.info
    name = spec.host if spec.awareness == "none" else f"{spec.host} + {spec.awareness}"
    defaults = {field: one.default for field, one in RunSpec.__dataclass_fields__.items()}
    settings = {field: value for field, value in spec.to_dict().items() if getattr(spec, field) != defaults[field]}
    git = info["git"]
    commit = f"commit `{git['commit']}`{', changed' if git['dirty'] else ''}" if git else "outside a checkout"
    images = f"{spec.images:,} {'images of a folder' if spec.of_folder else 'rendered scenes'}"
    lines = [
        f"# {spec.backbone}, {name}, seed {spec.seed}", "",
        f"Features learned by {name} on {images} of {spec.image_size} x {spec.image_size} pixels with the "
        f"augmentations {', '.join(info['augmentations'])} ({spec.augmentations}).", "",
        f"- run: `{run.id}`, status {info['status']}, finished {info['finished']}",
        f"- code: {commit}; torch {info['versions']['torch']}",
        f"- data fingerprint: `{info['data']}`",
        f"- backbone: {info['backbone_parameters']:,} parameters in `backbone.safetensors`, first layer `{spec.stem}`", "",
        "## Settings", "", "Those that are not the defaults of `RunSpec`; all of them are in `spec.json`.", "", "```json",
        json.dumps(settings, indent=1), "```", "", "## Measured", "",
    ]  # fmt: skip
    metrics = run.metrics()
    for column in ("loss", "rank", "knn"):
        if column in metrics and not metrics[column].dropna().empty:
            lines.append(f"- {column}, last: {metrics[column].dropna().iloc[-1]:.4g}")
    tasks = sorted((run.folder / "tasks").glob("*.csv"))
    if tasks:
        rows = pd.concat(map(pd.read_csv, tasks))
        lines += ["", "| task | metric | value | 95% interval | n | protocol |", "|---|---|---|---|---|---|"]
        bounds = [f"{low:.4f} to {high:.4f}" for low, high in zip(rows["low"], rows["high"], strict=True)]
        rows["low"] = ["" if found.startswith("nan") else found for found in bounds]
        for task, metric, value, interval, n, how in rows[
            ["task", "metric", "value", "low", "n", "protocol"]
        ].to_numpy():
            lines.append(f"| {task} | {metric} | {value:.4f} | {interval} | {n} | {how} |")
    else:
        lines.append("- no task yet: `mastlib.evaluate(run)` adds them")
    lines += ["", "## Images", ""]
    if spec.of_folder:
        lines.append(
            "Trained on a folder of the user's own images: their licences are not known here, and nothing here gives one."
        )
    else:
        lines += ["Trained on the image bank of this book, made from:", ""]
        lines += [f"- {line}" for line in bank.attributions()]
    return "\n".join(lines) + "\n"
