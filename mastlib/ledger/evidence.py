"""Tables of evidence (`claims.EVIDENCE`) from what chapters measured."""

from __future__ import annotations

import pandas as pd

from mastlib.experiments import ALL, WITHOUT
from mastlib.study import Study


def removal(study: Study) -> pd.DataFrame:
    """Scores with all augmentations (arm "all") and without each in turn (its name), of a study of `experiments.motivation`."""
    rows = study.rows
    mine = rows[(rows["arm"] == ALL) | rows["arm"].str.startswith(WITHOUT)]
    return mine.assign(arm=mine["arm"].str.removeprefix(WITHOUT))
