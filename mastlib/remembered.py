"""Tables that take long to make, kept by all that went into them."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from mastlib.closure import closure_hash
from mastlib.data.bank import fingerprint
from mastlib.errors import refuse
from mastlib.files import outputs_dir, reference_dir, write_text


def remembered(
    name: str, subject: Any, make: Callable[[], pd.DataFrame], *, code: str, **settings: Any
) -> pd.DataFrame:
    """What `make()` returns, read from `outputs/measured/<name>-<key>.json` where that was made before, here or by who shipped it.

    The key covers the name, the `subject` (run ids, or whatever else says what was measured), `settings`, the embedded images and
    the source of the module `code` with all that it imports, so a change of any of them measures anew. `subject` and `settings` are
    plain values that JSON can hold. Numbers are kept to the last bit; the index is not. Raises InputError for another name than of
    small letters, digits and _.
    """
    file, parts = _place(name, subject, code, settings)
    if not file.is_file():
        write_text(file, json.dumps(parts | {"module": code, "table": make().to_csv(index=False)}, indent=1))
    text = json.loads(file.read_text(encoding="utf-8"))["table"]
    return pd.read_csv(io.StringIO(text), float_precision="round_trip", keep_default_na=False, na_values=[""])


def known(name: str, subject: Any, *, code: str, **settings: Any) -> bool:
    """Whether `remembered` would read the table."""
    return _place(name, subject, code, settings)[0].is_file()


def _place(name: str, subject: Any, code: str, settings: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The table's file, which may be among what was shipped, and what its key is made from."""
    if not re.fullmatch("[a-z0-9_]+", name):
        raise refuse("name", name, "small letters, digits and _")
    parts = {
        "name": name,
        "subject": subject,
        "settings": settings,
        "images": fingerprint(),
        "code": closure_hash(code),
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    file = outputs_dir() / "measured" / f"{name}-{key}.json"
    if not file.is_file():
        file = next(reference_dir().glob(f"*/measured/{file.name}"), file)
    return file, parts
