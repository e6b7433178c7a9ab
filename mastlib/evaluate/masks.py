"""Learned masks, read from a finished MAST run, and how much they overlap."""

from __future__ import annotations

import torch
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


def overlap(masks: Tensor) -> Tensor:
    """Cosine between rows with their mean removed, `(K, K)`: 1 for the same choice of dimensions, 0 for unrelated ones.

    The mean is removed because masks are positive: two unrelated rows near 0.9 would have a plain cosine near 1.
    """
    centred = masks - masks.mean(dim=1, keepdim=True)
    rows = torch.nn.functional.normalize(centred, dim=1)
    return rows @ rows.T
