"""Which augmentation invariances should self-supervised features have, and for which task?"""

from __future__ import annotations

import importlib
from typing import Any

#: What is offered at the top, and where it lives. Looked up when asked for: `import mastlib` needs no torch, and what a run's
#: identity covers is what training imports, not what evaluates.
_OFFERED = {
    "evaluate": "mastlib.evaluation.rows", "fit": "mastlib.training", "RunSpec": "mastlib.spec", "tier_spec": "mastlib.tiers",
}  # fmt: skip
__all__ = sorted(_OFFERED)


def __getattr__(name: str) -> Any:
    if name not in _OFFERED:
        raise AttributeError(f"module 'mastlib' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(importlib.import_module(_OFFERED[name]), name)


def __dir__() -> list[str]:
    return __all__
