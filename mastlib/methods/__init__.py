"""Pre-training methods: a host objective, one file each, and what it knows of augmentations, one file each."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mastlib.methods.base import Method
    from mastlib.spec import RunSpec

# Named here, imported only when asked for: a run's source closure holds its own host and awareness and no other.
HOSTS = {
    "vicreg": "mastlib.methods.vicreg.VICReg", "simclr": "mastlib.methods.simclr.SimCLR", "moco": "mastlib.methods.moco.MoCo",
    "simsiam": "mastlib.methods.simsiam.SimSiam", "byol": "mastlib.methods.byol.BYOL", "swav": "mastlib.methods.swav.SwAV",
    "barlow": "mastlib.methods.barlow.BarlowTwins", "supervised": "mastlib.methods.supervised.Supervised",
}  # fmt: skip
AWARENESS = {
    "none": "mastlib.methods.base.Awareness", "augself": "mastlib.methods.augself.AugSelf",
    "cassle": "mastlib.methods.cassle.CASSLE", "mast": "mastlib.methods.mast.MAST", "looc": "mastlib.methods.looc.LooC",
}  # fmt: skip
#: Pairs that make no sense, and why.
REFUSED = {
    ("supervised", "cassle"): "CASSLE tells a projector what was done to a view; a supervised host has none",
    **{
        (
            host,
            "mast",
        ): "MAST's subspaces are written for VICReg's loss, or with subspace_loss = 'D' for MoCo's and SimCLR's"
        for host in ("simsiam", "byol", "swav", "barlow", "supervised")
    },
    **{
        (host, "looc"): "LooC compares a query with keys of a slow copy and with queues, which MoCo alone has"
        for host in HOSTS
        if host != "moco"
    },
}


def modules_of(spec: RunSpec | None = None) -> list[str]:
    """The modules of the host and the awareness that `spec` names; without one, of all there are."""
    paths = [HOSTS[spec.host], AWARENESS[spec.awareness]] if spec else [*HOSTS.values(), *AWARENESS.values()]
    return sorted({path.rpartition(".")[0] for path in paths})


def build_method(spec: RunSpec, augmentations: Sequence[str], classes: int = 0) -> Method:
    """The host of `spec` with its awareness, backbone and heads, weights drawn from torch's global generator.

    `augmentations` are the pipeline's names in order (K of them): MAST has a mask for each. `classes`: how many labels
    there are, for a supervised host. Raises InputError where the awareness asks for an augmentation that is not there.
    """
    host, awareness = (method_class(path) for path in (HOSTS[spec.host], AWARENESS[spec.awareness]))
    method: Method = host(spec, awareness, tuple(augmentations), classes)
    return method


def method_class(path: str) -> Any:
    """The class that a path of HOSTS or AWARENESS names, imported."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)
