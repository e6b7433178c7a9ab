"""Masks, read from a finished MAST run."""

from __future__ import annotations

from torch import Tensor

from mastlib.errors import refuse
from mastlib.methods.masks import masks_of
from mastlib.runs import Run


def read_masks(run: Run) -> Tensor:
    """The masks `(K, D)` of a MAST run, one row per augmentation in the order of `run.info["augmentations"]`.

    Raises InputError for a run of another method.
    """
    if run.spec.awareness != "mast":
        raise refuse("run", run.id, f"a run with awareness = 'mast' (this one has {run.spec.awareness!r})")
    return masks_of(run.spec.mask_type, run.weights("method")["aware.masks.raw"])
