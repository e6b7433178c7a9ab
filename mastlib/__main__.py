"""`python -m mastlib`: the run store from a shell."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mastlib.errors import InputError
from mastlib.runs import FINISHED, RunStore
from mastlib.shelf import export, listed, problems, prune


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 1 something in the store is damaged, 2 an input cannot be used (one line on stderr)."""
    parser = argparse.ArgumentParser(
        prog="mastlib", description="The runs under outputs/runs, or $MASTLIB_OUTPUTS/runs."
    )
    runs = parser.add_subparsers(required=True).add_parser("runs", help="the run store").add_subparsers(required=True)
    one = runs.add_parser("list", help="finished runs and the settings in which they differ")
    one.add_argument("--csv", action="store_true", help="as CSV instead of columns")
    one.set_defaults(do=_list)
    one = runs.add_parser("show", help="one run: what it is, its last metrics, its tasks")
    one.add_argument("run", help="the beginning of its id")
    one.set_defaults(do=_show)
    one = runs.add_parser("verify", help="hash every file anew")
    one.set_defaults(do=_verify)
    one = runs.add_parser("prune", help="say what would be deleted; with --yes delete it")
    one.add_argument("--status", nargs="+", default=[], choices=[*FINISHED, "damaged"], help="of finished runs")
    one.add_argument("--unfinished", action="store_true", help="runs that were ended, with their checkpoints")
    one.add_argument("--yes", action="store_true")
    one.set_defaults(do=_prune)
    one = runs.add_parser("export", help="backbone, spec and a model card for other programs")
    one.add_argument("run", help="the beginning of its id")
    one.add_argument("folder", type=Path, help="a new folder")
    one.set_defaults(do=_export)
    options = parser.parse_args(arguments)
    try:
        return options.do(RunStore(), options)
    except InputError as error:
        print(f"mastlib: {error}", file=sys.stderr)
        return 2


def _list(store: RunStore, options: argparse.Namespace) -> int:
    table = listed(store)
    print(
        table.to_csv(index=False) if options.csv else table.to_string(index=False) if len(table) else "no finished run"
    )
    for folder in store.unfinished():
        print(f"{folder.name[1:-8]} is unfinished")
    return 0


def _show(store: RunStore, options: argparse.Namespace) -> int:
    run = store.read(options.run)
    print(json.dumps({name: value for name, value in run.info.items() if name != "closure"}, indent=1))
    print(json.dumps(run.spec.to_dict(), indent=1))
    print(run.metrics().tail(1).to_string(index=False))
    for path in sorted((run.folder / "tasks").glob("*.csv")):
        print(path.read_text().splitlines()[-1])
    return 0


def _verify(store: RunStore, options: argparse.Namespace) -> int:
    found = problems(store)
    print(
        "\n".join(found)
        or f"{len(store.identities())} finished and {len(store.unfinished())} unfinished runs are whole"
    )
    return 1 if found else 0


def _prune(store: RunStore, options: argparse.Namespace) -> int:
    chosen = prune(store, statuses=options.status, unfinished=options.unfinished, really=options.yes)
    for folder in chosen:
        print(f"{'deleted' if options.yes else 'would delete'} {folder}")
    if not chosen:
        print("nothing to delete")
    return 0


def _export(store: RunStore, options: argparse.Namespace) -> int:
    export(store.read(options.run), options.folder)
    print(options.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
