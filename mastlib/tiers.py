"""The four sizes the book runs at; a table never mixes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mastlib.errors import check_choice
from mastlib.spec import RunSpec


@dataclass(frozen=True)
class Tier:
    """One size: what hardware it is for, the RunSpec fields it sets, for each host besides, and how much is evaluated.

    `pools`: images of the evaluation pools that are not taken whole; `every_weight`: the probe tries every n-th of the
    45 regularisation weights; `given`: parameters that the book gives to its chapters unless it is told others. What a run, or a
    chapter, asks a cluster for: `cpus`, which are a run's threads, `gpus`, `memory` in MB and `minutes`, after which it is ended
    and goes on in another job.
    """

    hardware: str
    minutes: int
    memory: int
    cpus: int = 2
    gpus: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    hosts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pools: Mapping[str, int] = field(default_factory=dict)
    every_weight: int = 1
    given: Mapping[str, Any] = field(default_factory=dict)


_SMALL: dict[str, Any] = {
    # Chosen by measurement on two cores (ARCHITECTURE.md, "The laptop tier's size").
    "backbone": "resnet_small", "stem": "patch", "width": 32, "image_size": 32,
    "optimizer": "adamw", "lr": 0.012, "weight_decay": 0.05, "batch_size": 128,
}  # fmt: skip

# A projector of 8192 would cost more than the backbone; a slow copy has hundreds of steps to follow, not hundred thousands.
_HOSTS: dict[str, dict[str, Any]] = {
    "vicreg": {"projector": (512, 512, 512)}, "barlow": {"projector": (512, 512, 512)}, "simsiam": {"projector": (512, 512)},
    "byol": {"projector": (512, 128), "momentum": 0.99}, "moco": {"queue": 4096, "momentum": 0.99},
    "swav": {"projector": (512, 128)},
}  # fmt: skip
_SMOKE_HOSTS = {
    host: {**changes, "projector": (128,) * len(changes["projector"])}
    if "projector" in changes
    else {**changes, "queue": 512}
    for host, changes in _HOSTS.items()
}

# The other hosts' published settings, where RunSpec's defaults are VICReg's.
_SGD: dict[str, Any] = {"optimizer": "sgd", "batch_size": 256, "warmup_epochs": 0}
_PAPERS: dict[str, dict[str, Any]] = {
    "simclr": {"lr": 0.3, "batch_size": 4096, "augmentations": "augself_default", "temperature": 0.1},
    "moco": {**_SGD, "lr": 0.03, "weight_decay": 1e-4, "epochs": 500, "augmentations": "moco_v2"},
    "simsiam": {**_SGD, "lr": 0.05, "weight_decay": 1e-4, "epochs": 500, "augmentations": "moco_v2"},
    "byol": {"lr": 0.2, "weight_decay": 1.5e-6, "batch_size": 4096, "momentum": 0.996},
    "swav": {"lr": 0.3, "batch_size": 4096, "epochs": 800, "prototypes": 3000, "augmentations": "augself_default"},
    "barlow": {"lr": 0.2, "weight_decay": 1.5e-6},
    "supervised": {**_SGD, "lr": 0.1, "weight_decay": 1e-4, "epochs": 100, "augmentations": "augself_default"},
}

#: Whose settings those of a host are.
PUBLISHED_BY: Mapping[str, str] = MappingProxyType(
    {
        "vicreg": "its paper", "simclr": "its paper", "byol": "its paper", "swav": "its paper", "barlow": "its paper",
        "moco": "AugSelf's and CASSLE's, ImageNet-100", "simsiam": "AugSelf's and CASSLE's, ImageNet-100",
        "supervised": "AugSelf's",
    }
)  # fmt: skip

TIERS: Mapping[str, Tier] = MappingProxyType(
    {
        "smoke": Tier(
            "two CPU cores, seconds a run: shows that everything works", 20, 3000, cpus=1,
            settings={
                **_SMALL, "width": 8, "images": 1024, "epochs": 3, "warmup_epochs": 1, "knn_every": 1,
                "precision": "fp32", "memory_format": "contiguous",  # nothing is timed: the same runs everywhere
            },
            hosts=_SMOKE_HOSTS, every_weight=11,
            given={"seeds": [0], "hosts": ["moco", "simsiam", "vicreg"], "scenes": ["detection"], "rounds": 2},
            pools={"objects": 3000, "latents": 1500, "turned": 1000, "mirrored": 600, "several": 400},
        ),
        "laptop": Tier(
            "two CPU cores, under a minute a run", 60, 3000, cpus=1,
            settings={**_SMALL, "images": 16384, "epochs": 4, "warmup_epochs": 0.3, "knn_every": 1},
            hosts=_HOSTS, every_weight=4,
        ),
        "gpu": Tier(
            "one GPU, about ten minutes a run", 240, 32000, cpus=8, gpus=1,
            settings={
                "backbone": "resnet18", "stem": "small", "image_size": 64,
                "images": 131072, "epochs": 100, "batch_size": 1024, "warmup_epochs": 10,
            },
            hosts={host: {"projector": (2048, 2048, 2048)} for host in ("vicreg", "barlow")},
        ),
        "paper": Tier(
            "eight GPUs, VICReg's published schedule on this book's images", 1440, 256000, cpus=64, gpus=8,
            settings={"images": 1281167}, hosts=_PAPERS,
        ),
    }
)  # fmt: skip


def tier_spec(tier: str, **changes: Any) -> RunSpec:
    """The RunSpec of `tier` and host with `changes` on top; raises InputError for an unknown tier or field or an unfit value."""
    size = TIERS[check_choice("tier", tier, TIERS)]
    own = size.hosts.get(changes.get("host", "vicreg"), {})
    return RunSpec.from_dict({**size.settings, **own, **changes})


def published(host: str) -> RunSpec:
    """The RunSpec of `host` with its published settings (`PUBLISHED_BY` says whose), on this book's images.

    Raises InputError for an unknown host.
    """
    return tier_spec("paper", host=host)
