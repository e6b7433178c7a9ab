"""How alike frozen features of an image and of its changed version are: synthetic transforms, and objects rendered anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mastlib.augment.ops import check_images, to_float
from mastlib.data import bank, scenes
from mastlib.data.splits import concept_split
from mastlib.errors import check_choice, check_int, refuse
from mastlib.evaluation.transforms import TRANSFORMS, VALUES
from mastlib.evaluation.whitening import FULL, Whitening

BATCH = 256
MEASURES = ("cosine", "distance", "relative")
SCENES_SEED = 4  # scenes of different sets never coincide: `data.pools` has 1 to 3

Encode = Callable[[Tensor], Tensor]


def compare(u: Tensor, v: Tensor, spread: float) -> dict[str, Tensor]:
    """The measures between whitened features `u` and `v` `(..., D)` of two versions of an image, `(...)` each.

    "cosine": cos(u, v), high where invariant, near 0 for unrelated images. "distance": |u - v|, which is Mahalanobis's, low
    where invariant. "relative": |u - v| / sqrt(2 `spread`), 1 where two versions are as far apart as two unrelated images
    are, root mean square: distances grow with the number of dimensions, so only this one compares spaces of unlike size.
    Equal features have cosine 1 and distance 0, exactly; a feature at the mean, u = 0, has cosine 0 with all others.
    Source: Ericsson et al., BMVC 2022 (ssl-invariances); "relative" is ours.
    """
    cosine = cosine_similarity(u, v, dim=-1, eps=1e-300).clamp(-1, 1)
    cosine = torch.where((u == v).all(dim=-1), 1.0, cosine)
    distance = (u - v).norm(dim=-1)
    return {"cosine": cosine, "distance": distance, "relative": distance / (2 * spread) ** 0.5}


def _named(spaces: Whitening | Mapping[str, Whitening]) -> Mapping[str, Whitening]:
    return {FULL: spaces} if isinstance(spaces, Whitening) else spaces


@torch.no_grad()
def synthetic(
    encode: Encode,
    spaces: Whitening | Mapping[str, Whitening],
    images: Tensor,
    transforms: Sequence[str] | None = None,
    values: int = VALUES,
) -> pd.DataFrame:
    """The measures between each of `images` `(N, 3, S, S)` and its transformed versions, a row per value of a grid.

    `encode`: float images `(n, 3, S, S)` in [0, 1] -> features `(n, D)` that do not depend on the batch, as
    `lambda x: extract(backbone, x)` or `subspaces.embeddings(method)`; at most BATCH images at once. `spaces`: the whitening of
    clean images' features by the same `encode`, or several by name (`whitening.whiten_subspaces`). `transforms`: names from
    TRANSFORMS (None: all); `values`: of each grid, see `Transform.grid`.

    Columns: subspace, group ("spatial" or "appearance"), transform, parameters (the grid's row), identity (whether it changes
    nothing), measure (of `compare`), value (mean over images), n (images). `headline` is the mean over a grid.
    Raises InputError for images, names and numbers of values that cannot be used.
    """
    check_images(images)
    if not len(images):
        raise refuse("images", tuple(images.shape), "at least one image")
    spaces = _named(spaces)
    chosen = [TRANSFORMS[check_choice("transform", t, TRANSFORMS)] for t in (transforms or TRANSFORMS)]
    grids = [(transform, row) for transform in chosen for row in transform.grid(images.shape[-1], values)]
    sums = torch.zeros(len(spaces), len(grids), len(MEASURES), dtype=torch.float64)
    for part in images.split(BATCH):
        features = encode(to_float(part))
        clean = [space.apply(features) for space in spaces.values()]
        for g, (transform, row) in enumerate(grids):
            features = encode(transform(part, row))
            for s, space in enumerate(spaces.values()):
                found = compare(clean[s], space.apply(features), space.spread)
                sums[s, g] += torch.stack([found[measure].sum() for measure in MEASURES])
    rows = [
        (name, transform.group, transform.name, row, transform.is_identity(row), measure, value, len(images))
        for name, of_space in zip(spaces, (sums / len(images)).tolist(), strict=True)
        for (transform, row), found in zip(grids, of_space, strict=True)
        for measure, value in zip(MEASURES, found, strict=True)
    ]
    columns = ["subspace", "group", "transform", "parameters", "identity", "measure", "value", "n"]
    return pd.DataFrame(rows, columns=columns)


def headline(table: pd.DataFrame) -> pd.DataFrame:
    """`synthetic`'s means over each transform's grid: subspace, group, transform, measure, value, n.

    Values that change nothing are left out, so that a flip's cosine is cos and not (1 + cos) / 2 as in the study.
    """
    keys = ["subspace", "group", "transform", "measure"]
    changed = table[~table["identity"]].groupby(keys, sort=False)
    return changed.agg(value=("value", "mean"), n=("n", "first")).reset_index()


@dataclass(frozen=True)
class Variation:
    """What differs between the pictures of one object: `change(views)` gives `views` values of some latents, each `(views,)`.

    Everything else stays as it was drawn, or is `fixed`. None: the drawing itself differs.
    """

    group: str
    change: Callable[[int], Mapping[str, np.ndarray]] | None
    fixed: Mapping[str, float]


def _turns(views: int) -> np.ndarray:
    """`views` steps round the circle, in turns."""
    return np.arange(views) / views


def _between(name: str) -> Callable[[int], Mapping[str, np.ndarray]]:
    """`views` values evenly spaced over the range that the pool "latents" has for the latent `name`."""
    low, high = getattr(scenes.LATENTS, name)
    return lambda views: {name: np.linspace(low, high, views)}


def _round(views: int) -> Mapping[str, np.ndarray]:
    """Places on a circle about the middle, a quarter of the canvas across."""
    angle = 2 * np.pi * _turns(views)
    return {"x": 0.5 + 0.125 * np.cos(angle), "y": 0.5 + 0.125 * np.sin(angle)}


#: An object in the middle, upright and whole, in plain white light; backgrounds as in pre-training.
STILL = replace(
    scenes.OBJECTS, x=(0.5, 0.5), y=(0.5, 0.5), scale=(0.6, 0.6), rotation=(0.0, 0.0), light_strength=(0.1, 0.1),
    light_saturation=(0.0, 0.0), blurred=0.0, exposure=(0.0, 0.0),
)  # fmt: skip
VARIATIONS: Mapping[str, Variation] = {
    "rotation": Variation("viewpoint", lambda views: {"rotation": _turns(views) - 0.5}, {}),
    "position": Variation("viewpoint", _round, {}),
    "scale": Variation("viewpoint", _between("scale"), {}),
    # A direction is seen where the light is strong, its hue where it is coloured: as much as the pool "latents" has.
    "light_direction": Variation(
        "light", lambda views: {"light_direction": _turns(views)}, {"light_strength": scenes.LATENTS.light_strength[1]}
    ),
    "light_colour": Variation(
        "light", lambda views: {"light_hue": _turns(views)}, {"light_saturation": scenes.LATENTS.light_saturation[1]}
    ),
    "exposure": Variation("camera", _between("exposure"), {}),
    "blur": Variation("camera", lambda views: {"blur": np.linspace(0, scenes.LATENTS.blur[1], views)}, {}),
    "vendor": Variation("drawing", None, {}),
    "object": Variation("control", None, {}),
}


def intrinsic_scenes(
    size: int, objects: int = 64, views: int = 8, variations: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Pictures of `objects` objects that differ in one thing each, `(objects, views, 3, size, size)` uint8, by VARIATIONS' names.

    Everything but that one thing is the same within an object: the drawing, the background, light, place and exposure. Objects
    are emoji of the test split's concepts that all vendors draw, one a concept, spread evenly over these, without skin tones;
    the vendors take turns. "vendor": the same emoji in the same scene by each of the five vendors. "object": five different
    concepts by one vendor in the same scene, a control: how alike pictures are for their scene and vendor alone.
    Deterministic. Raises InputError for an unknown variation, fewer than two views, and more objects than there are.
    Source: Ericsson et al., BMVC 2022, its real-world invariances (turntables, lights, exposures, blur), in scenes of our own.
    """
    check_int("views", views, 2)
    names = [check_choice("variation", v, VARIATIONS) for v in (variations or VARIATIONS)]
    rows = drawings(bank.load_table())
    check_int("objects", objects, 1, len(rows))
    place = np.linspace(0, len(rows) - 1, objects).astype(int)
    vendor, vendors = np.arange(objects) % len(bank.VENDORS), len(bank.VENDORS)
    others = (place[:, None] + len(rows) // vendors * np.arange(vendors)) % len(rows)  # the object, then the control's
    wanted = {"vendor": rows[place], "object": rows[others, vendor[:, None]]}
    used = np.unique(np.concatenate(list(wanted.values())))
    render = scenes.Renderer(bank.load_bank().images[torch.from_numpy(used)], bank.load_backgrounds(), size)
    sprites = {name: np.searchsorted(used, chosen) for name, chosen in wanted.items()}  # among those that are used
    index, photos = np.arange(objects), bank.background_count()
    base = scenes.draw(SCENES_SEED, index, STILL, photos, sprite=sprites["object"][:, :1])
    found = {}
    for name in names:
        variation = VARIATIONS[name]
        if variation.change is None:
            count, changed = vendors, {"sprite": sprites[name].ravel()}
        else:
            count, changed = views, {key: np.tile(value, objects) for key, value in variation.change(views).items()}
        latents = {key: value.repeat(count, axis=0) for key, value in base.items()}
        for key, constant in variation.fixed.items():
            latents[key][:] = constant
        for key, value in changed.items():
            latents[key][:] = value if latents[key].ndim == 1 else value[:, None]  # one object a scene
        found[name] = render(latents).images.view(objects, count, 3, size, size)
    return found


def drawings(table: pd.DataFrame) -> np.ndarray:
    """Rows of the bank's `table` by concept and vendor, `(concepts, vendors)`: test concepts that every vendor draws.

    Of a concept with several emoji the first in the table, of emoji in several tones none.
    """
    usable = table[(concept_split(table["concept"]) == "test") & table["tone"].isna().to_numpy()]
    by_vendor = (
        pd.Series(usable.index, index=[usable["concept"], usable["key"], usable["vendor"]])
        .unstack("vendor")
        .reindex(columns=list(bank.VENDORS))
        .dropna()
    )
    return by_vendor.groupby(level="concept").first().to_numpy(dtype=np.int64)


@torch.no_grad()
def intrinsic(
    encode: Encode, spaces: Whitening | Mapping[str, Whitening], pictures: Mapping[str, Tensor]
) -> pd.DataFrame:
    """The measures between every two different pictures of an object, their mean, and the mean of that over objects.

    `pictures`: `(objects, views, 3, S, S)` by what they differ in (`intrinsic_scenes`); `encode` and `spaces` as for
    `synthetic`. Columns: subspace, group (of VARIATIONS, else ""), transform (what differs), measure, value, n (objects).
    A picture is not compared with itself, which with two views would make every cosine (1 + cos) / 2, as in the study.
    Raises InputError where there are fewer than two views. Source: Ericsson et al., BMVC 2022 (ssl-invariances).
    """
    rows = []
    for name, images in pictures.items():
        if images.ndim != 5 or images.shape[1] < 2 or not len(images):
            raise refuse(f"pictures[{name!r}]", tuple(images.shape), "(objects, views, 3, S, S), at least two views")
        objects, views = images.shape[:2]
        check_images(images.flatten(0, 1))
        features = torch.cat([encode(to_float(part)) for part in images.flatten(0, 1).split(BATCH)])
        first, second = torch.triu_indices(views, views, offset=1)
        group = VARIATIONS[name].group if name in VARIATIONS else ""
        for subspace, space in _named(spaces).items():
            u = space.apply(features).view(objects, views, -1)
            found = compare(u[:, first], u[:, second], space.spread)
            rows += [
                (subspace, group, name, measure, float(found[measure].mean(dim=1).mean()), objects)
                for measure in MEASURES
            ]
    return pd.DataFrame(rows, columns=["subspace", "group", "transform", "measure", "value", "n"])
