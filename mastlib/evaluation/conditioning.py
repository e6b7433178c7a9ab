"""Whether a CASSLE projector reads what it is told: how alike two views' embeddings are when one is told wrong."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mastlib.augment.algebra import descriptors
from mastlib.augment.presets import get_pipeline
from mastlib.errors import refuse
from mastlib.evaluation.subspaces import BATCH, trained_method
from mastlib.runs import Run


@torch.no_grad()
def agreement(run: Run, images: Tensor, seed: int = 0) -> dict[str, float]:
    """Mean cosine between the embeddings of two views of each of `images` `(N, 3, S, S)`, four times.

    "right": each view is told its own descriptor; "wrong": the second is told another image's; "resampled": it is told one drawn
    anew for its image; "unrelated": the second view and what it is told are another image's. A projector that does not read the
    descriptor has "wrong" and "resampled" at "right".
    Source: Przewięźlikowski et al. 2024, the comparison with false augmentation information; its batch is reversed, ours
    shifted, so that no image is told its own.
    Raises InputError for a run of another method, and for less than two images.
    """
    if run.spec.awareness != "cassle":
        raise refuse("run", run.id, "a run with awareness = 'cassle'")
    if len(images) < 2:
        raise refuse("images", f"{len(images)} images", "two or more")
    method = trained_method(run)
    pipeline = get_pipeline(run.spec.augmentations, run.spec.image_size, run.spec.without)
    draw, anew = (torch.Generator().manual_seed(number) for number in (seed, seed + 1))
    features: list[list[Tensor]] = [[], []]
    told: list[list[Tensor]] = [[], []]
    redrawn = []
    for part in images.split(BATCH):
        views = pipeline.views(part, "independent", draw, color_diff=method.aware.wants_color_diff)
        for view, (image, descriptor) in enumerate(
            zip(views.images, descriptors(views, run.spec.condition_on), strict=True)
        ):
            features[view].append(method.features(image))
            told[view].append(descriptor)
        others = pipeline.views(part, "independent", anew, color_diff=method.aware.wants_color_diff)
        redrawn.append(descriptors(others, run.spec.condition_on)[1])
    (f1, f2), (w1, w2) = ([torch.cat(rows) for rows in both] for both in (features, told))
    first, right = method.projector(f1, w1)[0], method.projector(f2, w2)[0]
    wrong, resampled = (method.projector(f2, false)[0] for false in (w2.roll(1, dims=0), torch.cat(redrawn)))
    seconds = {"right": right, "wrong": wrong, "resampled": resampled, "unrelated": right.roll(1, dims=0)}
    return {name: float(cosine_similarity(first.double(), z.double()).mean()) for name, z in seconds.items()}
