"""Pre-training methods, one file each; `build_method` finds the one that a spec names."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mastlib.methods.base import Method
    from mastlib.spec import RunSpec

# Named here, imported only when asked for: a run's source closure holds its own method and no other.
MODULES = {"vicreg": "mastlib.methods.vicreg", "mast": "mastlib.methods.mast"}


def build_method(spec: RunSpec, augmentations: tuple[str, ...]) -> Method:
    """The method that `spec.method` names, with backbone and heads, weights drawn from torch's global generator.

    `augmentations` are the pipeline's names in order (K of them): MAST has a mask for each.
    """
    method: Method = importlib.import_module(MODULES[spec.method]).build(spec, augmentations)
    return method
