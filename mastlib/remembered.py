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
from mastlib.files import outputs_dir, write_text


def remembered(
    name: str, subject: Any, make: Callable[[], pd.DataFrame], *, code: str, **settings: Any
) -> pd.DataFrame:
    """What `make()` returns, read from `outputs/measured/<name>-<key>.csv` where that was made before.

    The key covers the name, the `subject` (run ids, or whatever else says what was measured), `settings`, the embedded images and
    the source of the module `code` with all that it imports, so a change of any of them measures anew. `subject` and `settings` are
    plain values that JSON can hold. Numbers are kept to the last bit; the index is not. Raises InputError for another name than of
    small letters, digits and _.
    """
    if not re.fullmatch("[a-z0-9_]+", name):
        raise refuse("name", name, "small letters, digits and _")
    file = _file(name, subject, settings, code)
    if not file.is_file():
        write_text(file, make().to_csv(index=False))
    text = file.read_text(encoding="utf-8")
    return pd.read_csv(io.StringIO(text), float_precision="round_trip", keep_default_na=False, na_values=[""])


def _file(name: str, subject: Any, settings: dict[str, Any], code: str) -> Path:
    parts = [name, subject, settings, fingerprint(), closure_hash(code)]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    return outputs_dir() / "measured" / f"{name}-{key}.csv"
