"""Masks of a study's MAST runs, and what is measured of their subspaces: invariance, tasks, where they look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from mastlib.data.pools import load_pool, side_of
from mastlib.errors import check_choice
from mastlib.evaluation.ablation import ablate, importance, masked_features
from mastlib.evaluation.attribution import ObjectScenes, grad_cam, object_masks, pointing, subspace_energies
from mastlib.evaluation.masks import CHOSEN, groups_of, kinship, read_masks
from mastlib.evaluation.subspaces import invariance, own, run_pipeline
from mastlib.evaluation.tasks import CLASSIFICATION, REGRESSION, get_task
from mastlib.evaluation.whitening import FULL
from mastlib.methods.masks import overlap
from mastlib.remembered import remembered
from mastlib.runs import Run
from mastlib.study import Model, Study, tier_grid, tier_pools

#: What subspaces are asked: for each group of `tasks.TASK_GROUPS`, and for the flip, a task whose probe takes less than a second.
TASKS = ("few_shot", "hue_shift", "exposure", "style", "position", "rotation", "facing")
PICTURES = 6  # scenes that maps are drawn of


@dataclass(frozen=True)
class Learned:
    """The masks of an arm: `masks` seed -> `(K, D)`, a row for each of `names`, in `groups` name -> what it changes."""

    names: tuple[str, ...]
    groups: dict[str, str]
    masks: dict[int, Tensor]

    def choosing(self) -> Learned:
        """Without augmentations whose mask, with some seed, is one number: it is like no other and unlike none."""
        varied = [all(rows[k].min() < rows[k].max() for rows in self.masks.values()) for k in range(len(self.names))]
        kept = [k for k, does in enumerate(varied) if does]
        return Learned(
            tuple(self.names[k] for k in kept), self.groups, {seed: rows[kept] for seed, rows in self.masks.items()}
        )

    def together(self) -> Tensor:
        """All seeds' masks side by side, `(K, S D)`, centred and of one length: their `overlap` is the mean of the seeds'."""
        return torch.cat(
            [F.normalize(rows - rows.mean(dim=1, keepdim=True), dim=1) for rows in self.masks.values()], dim=1
        )

    def related(self) -> bool:
        """Whether some pairs of augmentations are of one group, and some of two."""
        sizes = pd.Series([self.groups[name] for name in self.names], dtype=object).value_counts()
        return len(sizes) > 1 and bool(sizes.max() > 1)


def learned(study: Study, arm: str) -> Learned:
    """The masks of the runs of `arm` that did not diverge. Raises InputError for another method's."""
    table = study.measured("masks", _entries, code=__name__, arms=[arm])
    names = [name for name in map(str, table) if name not in ("arm", "seed")]
    rows = {
        seed: torch.tensor(table.loc[table["seed"] == seed, names].to_numpy().T)
        for seed in table["seed"].unique().tolist()
    }
    return Learned(tuple(names), groups_of(run_pipeline(study.of(arm)[0])), rows)


def _entries(model: Model) -> pd.DataFrame:
    return pd.DataFrame(read_masks(_run(model)).T.numpy(), columns=_run(model).info["augmentations"])


def alike(found: Learned) -> pd.DataFrame:
    """Rows (seed, pair, value): `overlap` of each two augmentations' masks; a pair is "a, b", in the order of the alphabet."""
    rows = [
        (seed, ", ".join(sorted((found.names[i], found.names[j]))), float(cosines[i, j]))
        for seed, masks in found.masks.items()
        for cosines in [overlap(masks.double())]
        for i, j in combinations(range(len(found.names)), 2)
    ]
    return pd.DataFrame(rows, columns=["seed", "pair", "value"])


def kin(found: Learned) -> pd.DataFrame:
    """Do augmentations of one group choose more alike? Columns seed, within, between, p, a row for each seed, and "all".

    "all" permutes the names of all seeds' masks at once (`Learned.together`). See `evaluation.masks.kinship`. Empty where no pair
    is of one group, or none of two.
    """
    sets = (
        [*((str(seed), masks) for seed, masks in found.masks.items()), ("all", found.together())]
        if found.related()
        else []
    )
    rows = [(seed, *kinship(masks, found.names, found.groups)) for seed, masks in sets]
    return pd.DataFrame(rows, columns=["seed", "within", "between", "p"])


def variation(study: Study, arm: str, images: int) -> pd.DataFrame:
    """Rows (arm, seed, subspace, augmentation, value) of `subspaces.invariance`, on `images` of validation concepts."""
    return study.measured("variation", partial(_variation, images=images), code=__name__, arms=[arm], images=images)


def _variation(model: Model, images: int) -> pd.DataFrame:
    pool = load_pool("objects", model.spec.image_size)
    table = invariance(_run(model), pool.images[torch.from_numpy(side_of(pool, "val", images))])
    return table.rename_axis("subspace").reset_index().melt("subspace", var_name="augmentation")


def relative(found: pd.DataFrame) -> pd.DataFrame:
    """`variation` of each subspace over the full space's, mean over seeds, subspaces x augmentations; 1: as much as the whole."""
    wide = found.pivot(index=["seed", "subspace"], columns="augmentation", values="value")
    names = [name for name in found["subspace"].unique() if name in wide]
    tables = [one.droplevel("seed") for _, one in wide.groupby("seed")]
    parts = [one.loc[names, names] / one.loc[FULL, names] for one in tables]
    return sum(parts[1:], parts[0]) / len(parts)


def owned(found: pd.DataFrame) -> pd.DataFrame:
    """What `subspaces.own` says of `variation`: a row for each seed and augmentation, of_row, of_column, ratio."""
    wide = found.pivot(index=["seed", "subspace"], columns="augmentation", values="value")
    names = [name for name in found["subspace"].unique() if name in wide]
    tables = [
        own(one.droplevel("seed").loc[[*names, FULL], names]).assign(seed=seed) for seed, one in wide.groupby("seed")
    ]
    return pd.concat(tables).rename_axis("augmentation").reset_index()


def ablation(study: Study, arm: str, tier: str, draws: int = 1) -> pd.DataFrame:
    """What TASKS score on each subspace alone and on as many random dimensions (`ablation.ablate`), of each run of `arm`."""
    return study.measured("ablation", partial(_ablation, tier=tier, draws=draws), code=__name__, arms=[arm],
                          tier=tier, draws=draws)  # fmt: skip


def _ablation(model: Model, tier: str, draws: int) -> pd.DataFrame:
    return _asked(ablate, model, tier, TASKS, draws=draws, without=False)


def importances(study: Study, arm: str, tier: str, draws: int = 1) -> pd.DataFrame:
    """What the probes of TASKS lose without each subspace (`ablation.importance`, captum), of each run of `arm`."""
    return study.measured("importance", partial(_importance, tier=tier, draws=draws), code=__name__, arms=[arm],
                          tier=tier, draws=draws)  # fmt: skip


def _importance(model: Model, tier: str, draws: int) -> pd.DataFrame:
    fitted = [name for name in TASKS if get_task(name).kind in (CLASSIFICATION, REGRESSION)]
    return _asked(importance, model, tier, fitted, draws=draws)


def _asked(
    ask: Callable[..., pd.DataFrame], model: Model, tier: str, tasks: Sequence[str], **settings: object
) -> pd.DataFrame:
    run, pools = _run(model), tier_pools(tier, model.spec.image_size, tasks)
    features = {name: masked_features(run, pool.images) for name, pool in pools.items()}
    masks, names = read_masks(run), run.info["augmentations"]
    parts = [
        ask(task, features[task.pool], masks, names, pools[task.pool], grid=tier_grid(tier), **settings)
        for task in map(get_task, tasks)
    ]
    return pd.concat(parts, ignore_index=True)


def looks(study: Study, arm: str, scenes: int) -> pd.DataFrame:
    """Where each subspace finds two scenes with the same drawing alike: columns arm, seed, subspace, hit, share, chance, n.

    Means of `attribution.pointing` over `scenes`, of Grad-CAM maps of the agreement (`attribution.grad_cam` with `others`).
    """
    return study.measured("looks", partial(_looks, scenes=scenes), code=__name__, arms=[arm], scenes=scenes)


def _looks(model: Model, scenes: int) -> pd.DataFrame:
    found = object_masks(model.spec.image_size, scenes)
    rows = [
        (name, *pointing(one, found.masks).mean(), scenes) for name, one in _maps(_run(model), found, scenes).items()
    ]
    return pd.DataFrame(rows, columns=["subspace", "hit", "share", "chance", "n"])


def maps(study: Study, arm: str, names: Sequence[str], scenes: int) -> tuple[Tensor, Tensor]:
    """The first PICTURES of `scenes` `(N, 3, S, S)`, and maps of what each of `names` finds alike in them and their twins.

    Grad-CAM maps `(len(names), N, S, S)` of the first run of `arm`, each in 255ths of its largest value.
    """
    model = study.models([arm])[0]
    size = model.spec.image_size
    table = remembered("maps", model.identity, partial(_drawn, model, names, scenes), code=__name__,
                       names=list(names), scenes=scenes)  # fmt: skip
    values = torch.tensor(table.to_numpy(), dtype=torch.float32)
    return object_masks(size, scenes).images[:PICTURES], values.reshape(len(names), -1, size, size)


def _drawn(model: Model, names: Sequence[str], scenes: int) -> pd.DataFrame:
    made = _maps(_run(model), object_masks(model.spec.image_size, scenes), PICTURES)
    rows = torch.stack([made[name] for name in names]).flatten(2)
    shares = rows / rows.amax(dim=2, keepdim=True).clamp(min=1e-12)
    return pd.DataFrame((255 * shares).round().int().flatten(0, 1).numpy())


def _maps(run: Run, found: ObjectScenes, count: int) -> dict[str, Tensor]:
    """Maps of the first `count` scenes by subspace, and of the full space; the mean that energies leave out is of all."""
    energies = subspace_energies(run, found.images)
    return {
        name: grad_cam(energy, found.images[:count], others=found.twins[:count]) for name, energy in energies.items()
    }


def doubled(found: Learned, first: str, second: str) -> pd.DataFrame:
    """Do two names of one augmentation choose alike? A row for each seed: `twins`, their likeness, `others`, the mean of all other
    pairs', and `place`, the share of other pairs that are less alike. Raises InputError for a name that is not there."""
    for name in (first, second):
        check_choice("augmentation", name, found.names)
    pair = ", ".join(sorted((first, second)))
    rows = []
    for seed, part in alike(found).groupby("seed"):
        mine, rest = (part.loc[kept, "value"] for kept in (part["pair"] == pair, part["pair"] != pair))
        rows.append((seed, mine.iloc[0], rest.mean(), (rest < mine.iloc[0]).mean()))
    return pd.DataFrame(rows, columns=["seed", "twins", "others", "place"])


def sizes(found: Learned) -> pd.Series:
    """The share of dimensions in each subspace, mean over seeds."""
    shares = np.stack([(rows >= CHOSEN).double().mean(dim=1).numpy() for rows in found.masks.values()])
    return pd.Series(shares.mean(axis=0), index=list(found.names))


def _run(model: Model) -> Run:
    assert model.run is not None  # random weights have no masks, and no caller asks for them
    return model.run
