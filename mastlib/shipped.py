"""Results that come with the package: runs as records without weights, and the tables that were measured of them.

Under `reference_dir()`/<tier>: `runs/<key>.json` is a record, its key the spec as it was asked for (with what "auto" leaves open),
the data and the code; `measured/` has tables as `remembered` keeps them. A record serves whoever asks for the same, on any machine.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mastlib.closure import closure_hash, combine
from mastlib.data.bank import fingerprint
from mastlib.data.sources import source_of
from mastlib.files import disk, outputs_dir, reference_dir, write_text
from mastlib.locks import alone
from mastlib.runs import RECORDED, Run, RunStore
from mastlib.spec import RunSpec
from mastlib.training import code_of, identify

RUN_ID = r"\b[0-9a-f]{16}(?= )"  # as `study.Model.identity` has it, before the weights' hash


def there(spec: RunSpec, store: RunStore | None = None) -> Run | None:
    """The finished run of `spec`: of the store, or a record that was shipped, which lies in the store from then on; else None."""
    store = store or RunStore()
    found = store.finished(identify(spec)[1])
    if found is None:
        key = _key(spec)
        file = next(iter(reference_dir().glob(f"*/runs/{key}.json")), None)
        found = None if file is None else _unpacked(file, store)
    return found


def pack(specs: Iterable[RunSpec], folder: Path, store: RunStore | None = None) -> list[RunSpec]:
    """Lay records of `specs`, as they are asked for, and the tables measured of them under `folder`, in place of what is there.

    Tables are taken that today's code would read and whose runs are all among `specs`. Specs that have no finished run are left
    out and returned. Raises InputError where the disk refuses; what was there then stays.
    """
    store = store or RunStore()
    left_out, identities = [], set()
    with disk(folder), tempfile.TemporaryDirectory(dir=_made(folder.parent), prefix=f".{folder.name}.") as made:
        records, tables = (_made(Path(made) / name) for name in ("runs", "measured"))
        for spec in dict.fromkeys(specs):
            run = there(spec, store)
            if run is None:
                left_out.append(spec)
                continue
            identities.add(run.id)
            write_text(records / f"{_key(spec)}.json", json.dumps(_record(run), indent=1))
        for path in sorted((outputs_dir() / "measured").glob("*.json")):
            kept = json.loads(path.read_text(encoding="utf-8"))
            runs = set(re.findall(RUN_ID, json.dumps(kept["subject"])))
            if kept["images"] == fingerprint() and kept["code"] == closure_hash(kept["module"]) and runs <= identities:
                shutil.copyfile(path, tables / path.name)
        for part in (records, tables):
            shutil.rmtree(folder / part.name, ignore_errors=True)
            part.rename(_made(folder) / part.name)
    return left_out


def _record(run: Run) -> dict[str, Any]:
    files = {name: (run.folder / name).read_text(encoding="utf-8") for name in RECORDED}
    tasks = {path.name: path.read_text(encoding="utf-8") for path in sorted((run.folder / "tasks").glob("*.csv"))}
    return {"info": run.info | {"record": True}, "files": files, "tasks": tasks}


def _unpacked(file: Path, store: RunStore) -> Run | None:
    """The record in `file` as a run of `store`, which may be there already, made where another "auto" was chosen."""
    record = json.loads(file.read_text(encoding="utf-8"))
    target = store.folder(record["info"]["run_id"])
    with alone(target):
        found = store.finished(target.name)
        if found is not None:
            return found
        with disk(target), tempfile.TemporaryDirectory(dir=target.parent, prefix=".record-") as made:
            folder = Path(made) / "run"
            _made(folder / "tasks")
            texts = record["files"] | {"run.json": json.dumps(record["info"], indent=2, sort_keys=True)}
            for name, text in [*texts.items(), *((f"tasks/{name}", text) for name, text in record["tasks"].items())]:
                (folder / name).write_text(text, encoding="utf-8")
            shutil.rmtree(target, ignore_errors=True)  # a damaged run
            folder.rename(target)
    return store.finished(target.name)


def _key(spec: RunSpec) -> str:
    parts = [spec.to_dict(), source_of(spec.data).fingerprint, combine(code_of(spec))]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
