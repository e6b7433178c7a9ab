"""Looking at augmentations: one from end to end of its range, as pictures; or any by hand, with sliders in JupyterLab."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import Tensor

from mastlib.augment import Op, Pipeline, RandomResizedCrop, Range
from mastlib.errors import check_int, refuse

if TYPE_CHECKING:
    import ipywidgets

SHOWN = 256  # pixels: the side at which the explorer shows an image


def sweep(op: Op, steps: int = 5, parameter: str | None = None) -> Tensor:
    """Parameters (n, p) of `op` in `steps` even steps from one end of its range to the other, fewer where few integers lie between.

    With `parameter`, that one alone is swept and the others hold the identity. Boxes of a crop are moved into the frame.
    Raises InputError for a `parameter` that `op` has not, and for fewer than two steps.
    """
    check_int("steps", steps, 2)
    ranges = op.ranges()
    if parameter is not None and parameter not in [r.name for r in ranges]:
        raise refuse("parameter", parameter, f"one of {', '.join(r.name for r in ranges)}")
    moved = [parameter in (None, r.name) for r in ranges]
    counts = [int(r.high - r.low) + 1 for r, moves in zip(ranges, moved, strict=True) if moves and r.whole]
    t = torch.linspace(0, 1, min([steps, *counts]))
    rows = torch.stack([_between(r, t) for r in ranges], dim=1)
    return inside(op, torch.where(torch.tensor(moved), rows, op.identity))


def _between(end: Range, t: Tensor) -> Tensor:
    """The values at the fractions `t` of the way from `end.low` to `end.high`."""
    values = torch.lerp(torch.tensor(float(end.low)), torch.tensor(float(end.high)), t)
    return values.round() if end.whole else values


def strip(op: Op, image: Tensor, steps: int = 5, parameter: str | None = None) -> tuple[str, Tensor, list[str]]:
    """A `sweep` on `image` (3, H, W), as `plots.strips` takes it: a heading, the pictures (n, 3, h, w), a caption for each."""
    rows = sweep(op, steps, parameter)
    shown = [(i, r) for i, r in enumerate(op.ranges()) if parameter in (None, r.name)]
    names, units = (
        ", ".join(dict.fromkeys(words)) for words in zip(*((r.name, r.unit) for _, r in shown), strict=True)
    )
    heading = f"{op.name}: {names}" + f" ({units})" * bool(units)
    captions = []
    for row in rows.tolist():
        words = [_spell(r, row[i]) for i, r in shown]
        captions.append("\n".join(" ".join(words[i : i + 2]) for i in range(0, len(words), 2)))
    return heading, op.apply(image.expand(len(rows), -1, -1, -1), rows), captions


def _spell(span: Range, value: float) -> str:
    """`value` with the digits that its range asks for, and a sign where it may have either."""
    if span.whole:
        return f"{value:.0f}"
    sign = "+" if span.low < 0 < span.high and value else ""
    return f"{value:{sign}.{1 if span.high - span.low > 10 else 2}f}"


def inside(op: Op, params: Tensor) -> Tensor:
    """`params` (N, p) with the boxes of a crop moved into the frame; of any other op, as they are."""
    if not isinstance(op, RandomResizedCrop):
        return params
    centre, sides = params[:, :2], params[:, 2:]
    return torch.cat([torch.minimum(torch.maximum(centre, sides / 2), 1 - sides / 2), sides], dim=1)


def describe(ops: Pipeline | list[Op], draws: int = 4096, seed: int = 0) -> pd.DataFrame:
    """A row per parameter: op, class, parameter, unit, identity, least and greatest of `draws` samples, and the op's source.

    The samples are of images that are changed; the source is what the docstring of the class names, empty if none.
    """
    rows = []
    for op in ops.ops if isinstance(ops, Pipeline) else ops:
        drawn = op.sample(draws, torch.Generator().manual_seed(seed))
        said = re.search(r"Source: (.*?)\.?\s*(\n\s*\n|$)", type(op).__doc__ or "", re.S)
        for i, r in enumerate(op.ranges()):
            values = op.identity[i].item(), drawn[:, i].min().item(), drawn[:, i].max().item()
            rows.append(
                (op.name, type(op).__name__, r.name, r.unit, *values, " ".join(said[1].split()) if said else "")
            )
    return pd.DataFrame(rows, columns=["op", "class", "parameter", "unit", "identity", "least", "greatest", "source"])


def explorer(image: Tensor, pipeline: Pipeline) -> ipywidgets.VBox:
    """Sliders for each augmentation of `pipeline` and, beside `image` (3, H, W) in [0, 1] or uint8, what `Op.apply` makes of it.

    A menu chooses the augmentation; its sliders begin at the identity, in the units of its parameters, and reach as far as
    its range. For a notebook in a front end that shows widgets.
    """
    import ipywidgets as widgets

    before, after = (widgets.Image(format="png", width=SHOWN, height=SHOWN) for _ in range(2))
    before.value = png(image)
    sliders = {
        op.name: [_slider(*given) for given in zip(op.ranges(), op.identity.tolist(), strict=True)]
        for op in pipeline.ops
    }
    ops = {op.name: op for op in pipeline.ops}
    menu = widgets.Dropdown(options=list(ops), description="operation")
    panel = widgets.VBox()

    def redraw(_: object = None) -> None:
        op, chosen = ops[menu.value], sliders[menu.value]
        panel.children = chosen
        params = inside(op, torch.tensor([[float(slider.value) for slider in chosen]]))
        after.value = png(op.apply(image[None], params)[0])

    for slider in [menu, *(slider for those in sliders.values() for slider in those)]:
        slider.observe(redraw, names="value")
    redraw()
    return widgets.VBox([menu, panel, widgets.HBox([before, after])])


def _slider(span: Range, identity: float) -> ipywidgets.Widget:
    """A slider over `span` that begins at the identity and always reaches it."""
    import ipywidgets as widgets

    low, high = min(span.low, identity), max(span.high, identity)
    look = {
        "description": f"{span.name} {span.unit}",
        "style": {"description_width": "10em"},
        "layout": {"width": "34em"},
    }
    if span.whole:
        return widgets.IntSlider(value=int(identity), min=int(low), max=int(high), **look)
    return widgets.FloatSlider(
        value=identity, min=low, max=high, step=(high - low) / 200 or 1.0, readout_format=".3f", **look
    )


def png(image: Tensor) -> bytes:
    """`image` (3, H, W), float in [0, 1] or uint8, as a PNG of at least SHOWN pixels, each pixel a square."""
    levels = image if image.dtype == torch.uint8 else (image * 255).round().byte()
    zoom = max(1, SHOWN // max(levels.shape[1:]))
    buffer = io.BytesIO()
    plt.imsave(
        buffer, levels.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2).permute(1, 2, 0).numpy(), format="png"
    )
    return buffer.getvalue()
