"""Two cues that compete, an object and the digit on its badge, asked of a study's networks (`evaluation.suppression`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd

from mastlib.data.pools import BADGED, load_pool
from mastlib.evaluation.suppression import suppression
from mastlib.study import Model, Study, tier_grid
from mastlib.tiers import TIERS

COLUMNS = ["arm", "seed", "badge", "cue", "metric", "value", "chance", "n"]


def cues(study: Study, arms: Sequence[str], badges: Sequence[float], tier: str) -> pd.DataFrame:
    """Rows of `suppression` for each network of `arms`: arm, seed, badge, cue, metric, value, chance, n.

    A network that was trained on badges is asked about scenes with badges of its size, another one about each of `badges`: what
    such a badge hides of the object costs it as much, and no cue was there to learn instead.
    """
    limit, grid = TIERS[tier].pools.get("objects"), list(tier_grid(tier))
    found = study.measured(
        "cues", partial(read, badges=badges, limit=limit, grid=grid), code=__name__, arms=arms,
        badges=list(badges), limit=limit, grid=grid,
    )  # fmt: skip
    return found.reindex(columns=COLUMNS)


def read(model: Model, badges: Sequence[float], limit: int | None, grid: Sequence[float]) -> pd.DataFrame:
    """Rows (badge, cue, metric, value, chance, n) of one network, of at most `limit` scenes for each size of badge."""
    backbone, spec = model.backbone(), model.spec
    sizes = [spec.badge] if spec.badge else badges
    parts = [suppression(backbone, load_pool(BADGED, spec.image_size, limit, size), grid) for size in sizes]
    return pd.concat(parts, ignore_index=True)
