"""Parameters as AugSelf and CASSLE use them: what two views differ in, and what one view was given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mastlib.augment.pipeline import Params, Views
from mastlib.errors import InputError, check_choice, refuse

#: Length of each part of a descriptor; joined in alphabetical order (CASSLE).
DESCRIPTORS = {"blur": 1, "color": 4, "color_diff": 3, "crop": 4, "flip": 1, "grayscale": 1}
#: AugSelf's prediction tasks; rotation is a class, the others are numbers.
TARGETS = ("crop", "flip", "color", "blur", "rot90", "solarize")


def seen_crop(params: Params) -> Tensor:
    """The crop (y_c, x_c, h, w) `(..., 4)` as it lies in the source, seen the way round that the view is.

    Mirrored by the view's own flip, x_c -> 1 - x_c, then turned with it: a quarter turn counter-clockwise takes (y_c, x_c, h, w) to
    (1 - x_c, y_c, w, h). Source: AugSelf (Lee et al., NeurIPS 2021); its code mirrors both crops by the first view's flip and does
    not turn them, which are slips.
    """
    y, x, h, w = params["crop"].unbind(-1)
    if "flip" in params:
        x = torch.where(params["flip"][..., 0] == 1, 1 - x, x)
    crop = torch.stack([y, x, h, w], dim=-1)
    if "rot90" not in params:
        return crop
    turns = params["rot90"].long() % 4
    for quarter in (1, 2, 3):
        y, x, h, w = crop.unbind(-1)
        crop = torch.where(turns >= quarter, torch.stack([1 - x, y, w, h], dim=-1), crop)
    return crop


def differences(views: Views, blur_range: float = 2.0) -> dict[str, Tensor]:
    """AugSelf's targets for views 0 and 1, one per augmentation that the pipeline has, `(N, p)` in [-1, 1] unless said.

    crop: difference of `seen_crop` (4); flip: 1 where both or neither are flipped, else 0; color: difference of the four strengths;
    blur: (sigma_0 - sigma_1) / blur_range, the largest sigma in pixels; solarize: difference of thresholds; rot90: quarter turns
    from view 1 to view 0, (k_0 - k_1) mod 4, `(N,)` long. Source: AugSelf (Lee et al., NeurIPS 2021), section 3, and its code, with
    blur scaled into the range of the tanh that predicts it.
    Raises InputError where there are not two views, and for a `blur_range` that a sigma exceeds.
    """
    if len(views.images) != 2:
        raise refuse("views", f"{len(views.images)} views", "two views")
    params, found = views.params, {}
    for name in TARGETS:
        if name not in params:
            continue
        first, second = params[name]
        if name == "crop":
            first, second = seen_crop(params)
            found[name] = first - second
        elif name == "flip":
            found[name] = (first == second).to(first.dtype)
        elif name == "color":
            found[name] = (first - second)[:, :4]
        elif name == "rot90":
            found[name] = (first - second)[:, 0].long() % 4
        elif name == "blur":
            largest = params[name].max().item() if params[name].numel() else 0.0
            if blur_range < largest:
                raise refuse("blur_range", blur_range, f"at least the largest sigma, {largest:g}")
            found[name] = (first - second) / blur_range
        else:
            found[name] = first - second
    return found


def descriptors(views: Views, keys: Sequence[str]) -> Tensor:
    """CASSLE's descriptor of every view, `(V, N, p)`: the parts that `keys` names, in alphabetical order.

    Parts and lengths: DESCRIPTORS. crop: `seen_crop`; color: the four strengths, not their order; color_diff: mean of each channel
    before jitter less that after it, 0 where not applied; blur: sigma in pixels; flip and grayscale: 1 where applied.
    Raises InputError for a key that is unknown or twice there, that the pipeline lacks, or for color_diff in views made without it.
    Source: CASSLE (Przewięźlikowski et al., 2024), its code.
    """
    if isinstance(keys, str) or not keys or len(set(keys)) < len(keys):
        raise refuse("keys", keys, f"different names out of {', '.join(DESCRIPTORS)}")
    parts = []
    for key in sorted(keys):
        check_choice("a descriptor's key", key, DESCRIPTORS)
        if key == "color_diff":
            if views.color_diff is None:
                raise InputError("color_diff is not in these views; make them with color_diff=True")
            parts.append(views.color_diff)
            continue
        if key not in views.params:
            raise InputError(
                f"the descriptor's key {key!r} is no augmentation of these views: {', '.join(views.params)}"
            )
        parts.append(seen_crop(views.params) if key == "crop" else views.params[key][..., : DESCRIPTORS[key]])
    return torch.cat(parts, dim=-1)
