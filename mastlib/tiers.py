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
    """One size: what hardware it is for, the RunSpec fields it sets, and how much is evaluated.

    `objects`, `latents`: images of the evaluation pools (None: all); `every_weight`: the probe tries every n-th of the
    45 regularisation weights.
    """

    hardware: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    objects: int | None = None
    latents: int | None = None
    every_weight: int = 1


_SMALL: dict[str, Any] = {
    # Chosen by measurement on two cores (ARCHITECTURE.md, "The laptop tier's size").
    "backbone": "resnet_small", "stem": "patch", "width": 32, "image_size": 32, "expander": (512, 512, 512),
    "optimizer": "adamw", "lr": 0.012, "weight_decay": 0.05, "batch_size": 128,
}  # fmt: skip

TIERS: Mapping[str, Tier] = MappingProxyType(
    {
        "smoke": Tier(
            "two CPU cores, seconds a run: shows that everything works",
            {**_SMALL, "width": 8, "expander": (128, 128, 128), "images": 1024, "epochs": 3, "warmup_epochs": 1, "knn_every": 1},
            objects=3000, latents=1500, every_weight=11,
        ),
        "laptop": Tier(
            "two CPU cores, under a minute a run",
            {**_SMALL, "images": 16384, "epochs": 4, "warmup_epochs": 0.3, "knn_every": 1},
            every_weight=4,
        ),
        "gpu": Tier(
            "one GPU, about ten minutes a run",
            {
                "backbone": "resnet18", "stem": "small", "image_size": 64, "expander": (2048, 2048, 2048),
                "images": 131072, "epochs": 100, "batch_size": 1024, "warmup_epochs": 10,
            },
        ),
        "paper": Tier("eight GPUs, VICReg's published schedule on this book's images", {"images": 1281167}),
    }
)  # fmt: skip


def tier_spec(tier: str, **changes: Any) -> RunSpec:
    """The RunSpec of `tier` with `changes` on top; raises InputError for an unknown tier or field or an unfit value."""
    check_choice("tier", tier, TIERS)
    return RunSpec.from_dict({**TIERS[tier].settings, **changes})
