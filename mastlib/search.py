"""What the searches for settings came to: their questions, their tables, and the rule of MAST's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from mastlib import stats
from mastlib.errors import refuse

#: Asked on validation concepts and by no page: see benchmarks/search.py.
QUESTIONS = (
    "people", "vendor", "value", "light_strength", "light_saturation", "background_value", "background_saturation",
    "background_angle",
)  # fmt: skip
#: Tasks that live on colour, as many as there were when CASSLE's search was run.
CASSLE_TASKS = ("tone", "hue", "flag", "hue_shift")
#: Questions that colour operations take away.
COLOUR_QUESTIONS = ("value", "light_strength", "light_saturation", "background_value", "background_saturation")
ALIKE = 0.5  # mean cosine of centred mask rows from which on masks count as alike


HOST, CONTROLS = "host", {"mixed": "control, mixed pairs"}  # by family; the other arms' pairs are isolated
ISOLATED = "control, isolated pairs"


def search_table(rows: pd.DataFrame, augmentations: int = 5) -> pd.DataFrame:
    """A row for each arm of the search, over its seeds: subspaces that are their own, likeness, ranks, and whether it is fit.

    `rows`: arm, seed, QUESTIONS, and of arms with masks own_of_row, ratio, likeness, mask_mean. "mean rank": an arm's rank among
    all by the mean over seeds, averaged over the questions. "of three", "host's", "control's": the same among the arm, the
    host and the control with the arm's pairs and no masks, each one's mean rank. "fit": in every seed all but at most one
    of the `augmentations` subspaces are most invariant to their own, and likeness is below ALIKE. Raises InputError where
    an arm lacks a seed that others have.
    """
    seeds = rows.groupby("arm")["seed"].nunique()
    if (short := seeds[seeds < rows["seed"].nunique()]).size:
        raise refuse("rows", ", ".join(short.index), f"{rows['seed'].nunique()} seeds of every arm")
    arms = rows.groupby("arm", sort=False)
    means = arms[[*QUESTIONS, "knn", "ratio", "likeness", "mask_mean"]].mean()
    own = arms["own_of_row"]
    table = pd.DataFrame(
        {
            "own, least": own.min(), "own, most": own.max(), "own, mean": own.mean(), "variation": means["ratio"],
            "likeness": means["likeness"], "mean mask": means["mask_mean"], "kNN": means["knn"],
            "mean rank": means[list(QUESTIONS)].rank(ascending=False).mean(axis=1),
            "fit": (own.min() >= augmentations - 1) & (arms["likeness"].max() < ALIKE),
        },
        index=means.index,
    )  # fmt: skip
    table = table.assign(
        family=[arm.partition(",")[0] for arm in table.index], seeds=seeds[table.index], questions=len(QUESTIONS)
    )
    for arm in table.index[table["own, least"].notna()]:
        three = [arm, HOST, CONTROLS.get(table.loc[arm, "family"], ISOLATED)]
        ranks = means.loc[three, list(QUESTIONS)].rank(ascending=False).mean(axis=1)
        table.loc[arm, ["of three", "host's", "control's"]] = ranks.to_list()
    return table


def kept(table: pd.DataFrame) -> str:
    """The arm of a `search_table` that the rule keeps: of those that are fit, the best of three, then the best of all."""
    return str(table[table["fit"]].sort_values(["of three", "mean rank"], kind="stable").index[0])


def change_table(rows: pd.DataFrame, hosts: Mapping[str, str], groups: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """What each arm of `hosts` (arm -> the arm it is compared with) changes, paired by seed, in points of the score.

    A column for each of `groups` (name -> columns of `rows`): the change of their mean, with the bounds "<name>, low" and
    "<name>, high" of its 95% interval; n: seeds that both have. `rows` as in `search_table`.
    Raises InputError where an arm and its host share no seed.
    """
    scores = {name: 100 * rows[list(columns)].mean(axis=1) for name, columns in groups.items()}
    table = []
    for arm, host in hosts.items():
        row: dict[str, float | str] = {"arm": arm, "compared with": host}
        seeds = [rows.loc[rows["arm"] == one, "seed"] for one in (arm, host)]
        if not set(seeds[0]) & set(seeds[1]):
            raise refuse("rows", f"{arm} and {host}", "at least one seed that both have")
        for name, values in scores.items():
            mine, theirs = (values[one.index].set_axis(one) for one in seeds)
            change = stats.paired_difference(mine, theirs)
            row |= {"n": change.n, name: change.mean, f"{name}, low": change.low, f"{name}, high": change.high}
        table.append(row)
    return pd.DataFrame(table).set_index("arm")
