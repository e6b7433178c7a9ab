"""`python -m mastlib`: a run is trained from a shell, and the store looked after. It needs no notebook package."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mastlib.errors import InputError, refuse
from mastlib.files import write_text
from mastlib.runs import RunStore
from mastlib.shelf import STATUSES, export, listed, problems, prune
from mastlib.spec import RunSpec
from mastlib.training import fit


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 1 something in the store is damaged or a run failed, 2 an input cannot be used (one line on stderr)."""
    parser = argparse.ArgumentParser(
        prog="mastlib", description="What is made lies under outputs, or $MASTLIB_OUTPUTS."
    )
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("fit", help="train one run, or go on with it")
    one.add_argument("task", type=Path, help="a JSON file with the run's settings under `spec`")
    one.add_argument("--receipt", type=Path, help="a file to write the finished run's id to")
    one.add_argument("--store", type=Path, help="the folder of the runs (default: runs)")
    one.add_argument("--devices", type=int, default=1, help="processes that train it together (default: 1)")
    one.add_argument(
        "--every", type=float, default=180.0, help="seconds between checkpoints; 0: after every step (default: 180)"
    )
    one.set_defaults(do=_fit)
    runs = commands.add_parser("runs", help="the run store").add_subparsers(required=True)
    one = runs.add_parser("list", help="finished runs and the settings in which they differ")
    one.add_argument("--csv", action="store_true", help="as CSV instead of columns")
    one.set_defaults(do=_list)
    one = runs.add_parser("show", help="one run: what it is, its last metrics, its tasks")
    one.add_argument("run", help="the beginning of its id")
    one.set_defaults(do=_show)
    one = runs.add_parser("verify", help="hash every file anew")
    one.set_defaults(do=_verify)
    one = runs.add_parser("prune", help="say what would be deleted; with --yes delete it")
    one.add_argument("--status", nargs="+", default=[], choices=STATUSES, help="of finished runs")
    one.add_argument("--unfinished", action="store_true", help="runs that were ended, with their checkpoints")
    one.add_argument("--yes", action="store_true")
    one.set_defaults(do=_prune)
    one = runs.add_parser("export", help="backbone, spec and a model card for other programs")
    one.add_argument("run", help="the beginning of its id")
    one.add_argument("folder", type=Path, help="a new folder")
    one.set_defaults(do=_export)
    options = parser.parse_args(arguments)
    try:
        return options.do(options)
    except InputError as error:
        print(f"mastlib: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mastlib: interrupted; the next call goes on from here", file=sys.stderr)
        return 130


def _fit(options: argparse.Namespace) -> int:
    try:
        task = json.loads(options.task.read_text(encoding="utf-8"))
        spec = RunSpec.from_dict(task["spec"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise refuse(
            "task", str(options.task), f"a JSON file with settings under `spec` ({type(error).__name__})"
        ) from None
    store = RunStore(options.store) if options.store else RunStore()
    run = fit(spec, store=store, devices=options.devices, checkpoint_seconds=options.every)
    if options.receipt is not None:
        write_text(options.receipt, json.dumps({"run_id": run.id, "status": run.info["status"]}))
    print(run.folder)
    return 0


def _list(options: argparse.Namespace) -> int:
    store = RunStore()
    table = listed(store)
    print(
        table.to_csv(index=False) if options.csv else table.to_string(index=False) if len(table) else "no finished run"
    )
    for identity in store.unfinished():
        print(f"{identity} is unfinished")
    return 0


def _show(options: argparse.Namespace) -> int:
    store = RunStore()
    run = store.read(options.run)
    print(json.dumps({name: value for name, value in run.info.items() if name != "closure"}, indent=1))
    print(json.dumps(run.spec.to_dict(), indent=1))
    print(run.metrics().tail(1).to_string(index=False))
    for path in sorted((run.folder / "tasks").glob("*.csv")):
        print(path.read_text().splitlines()[-1])
    return 0


def _verify(options: argparse.Namespace) -> int:
    store = RunStore()
    found = problems(store)
    print(
        "\n".join(found)
        or f"{len(store.identities())} finished and {len(store.unfinished())} unfinished runs are whole"
    )
    return 1 if found else 0


def _prune(options: argparse.Namespace) -> int:
    store = RunStore()
    chosen = prune(store, statuses=options.status, unfinished=options.unfinished, really=options.yes)
    for folder in chosen:
        print(f"{'deleted' if options.yes else 'would delete'} {folder}")
    if not chosen:
        print("nothing to delete")
    return 0


def _export(options: argparse.Namespace) -> int:
    store = RunStore()
    export(store.read(options.run), options.folder)
    print(options.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
