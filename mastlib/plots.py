"""Figures in one style: colour-blind safe, labelled axes, sizes for a printed column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator
from scipy.cluster import hierarchy
from torch import Tensor

from mastlib.stats import interval

WIDTH = 7.2  # inches: the text width of the book and of a two-column page
MARKERS = "osD^vPX*"  # beside colour, so that a figure reads in grey
TICK = Path([(-1, 0), (-0.3, -0.7), (1, 0.8)])  # drawn, not written: no font may have it


def style() -> None:
    """Seaborn's white grid with its colour-blind palette, readable at print width, SVG-friendly text."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind", font_scale=0.85)
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 200,
            "figure.facecolor": "white",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.fonttype": "none",
            "svg.hashsalt": "mastlib",  # the same figure gives the same file
            "legend.frameon": False,
        }
    )


def contact_sheet(images: Tensor, titles: Sequence[str] | None = None, columns: int = 12) -> Figure:
    """A grid of images `(N, 3, S, S)`, uint8 or float in [0, 1], row by row, with a short title above each if given."""
    rows = -(-len(images) // columns)
    size = WIDTH / columns
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, rows * size * (1.28 if titles else 1.04)), squeeze=False)
    for i, ax in enumerate(axes.flat):
        ax.axis("off")
        if i < len(images):
            ax.imshow(images[i].permute(1, 2, 0).numpy(), interpolation="nearest")
            if titles:
                ax.set_title(titles[i], fontsize=6, pad=2)
    figure.subplots_adjust(0, 0, 1, 0.97 if titles else 1, 0.06, 0.3 if titles else 0.06)
    return figure


def strips(rows: Sequence[tuple[str, Tensor, Sequence[str]]], columns: int = 2, cells: int = 5) -> Figure:
    """Strips of at most `cells` pictures, `columns` beside one another; each is (heading, images, a caption for each image).

    Images `(n, 3, S, S)`, uint8 or float in [0, 1]. Headings stand above their strip, captions, empty ones too, above their image.
    """
    gap, apart, heading, line = 0.06, 0.16, 0.2, 0.11  # inches: between pictures and between strips; heights of texts
    side = (WIDTH - (columns - 1) * apart + gap) / (columns * cells) - gap
    groups = [rows[i : i + columns] for i in range(0, len(rows), columns)]
    lines = [max(len(text.splitlines()) for _, _, captions in group for text in captions) for group in groups]
    heights = [heading + line * count + side + gap for count in lines]
    figure = plt.figure(figsize=(WIDTH, sum(heights)))
    width, height = figure.get_size_inches()
    for g, group in enumerate(groups):
        top = height - sum(heights[:g])
        for k, (title, images, captions) in enumerate(group):
            left = k * (cells * (side + gap) - gap + apart)
            figure.text(left / width, (top - heading / 2) / height, title, fontsize=8, weight="bold", va="center")
            for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
                corner = (left + i * (side + gap)) / width, (top - heights[g] + gap) / height
                ax = figure.add_axes((*corner, side / width, side / height))
                ax.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
                ax.set_title(caption, fontsize=7, pad=2, linespacing=1.0)
                ax.axis("off")
    return figure


def retrieval_panel(
    images: Tensor,
    queries: Sequence[int],
    neighbours: Mapping[str, Tensor],
    keys: Sequence[object] | np.ndarray | pd.Series,
    text: str,
) -> Figure:
    """A row for each of `queries`: the image, framed, then its neighbours by each model; those with its key have a tick.

    images `(M, 3, S, S)`, uint8 or float in [0, 1]; queries: rows of these; neighbours: model -> `(M, k)`, rows nearest first
    (`evaluation.retrieval.neighbours`); keys `(M,)`, one that is missing is nobody's. `text` says what the tick means.
    """
    known = pd.Series(np.asarray(keys, dtype=object))
    gap, apart, heading = 0.06, 0.16, 0.2  # inches: between pictures, more of it before a model; a line of text
    groups = {"query": torch.arange(len(images))[:, None], **neighbours}
    count = sum(rows.shape[1] for rows in groups.values())
    side = (WIDTH - (len(groups) - 1) * apart) / count - gap
    figure = plt.figure(figsize=(WIDTH, 2 * heading + len(queries) * (side + gap)))
    width, height = figure.get_size_inches()
    size = min(12, 16 * side)  # of a tick, in points
    looks: list[dict[str, Any]] = [
        {"marker": "o", "ms": size, "mfc": "white", "mec": "black", "mew": 0.6},
        {"marker": TICK, "ms": 0.5 * size, "mfc": "none", "mec": "black", "mew": 0.1 * size},
    ]
    left = gap / 2  # so that the frame is not cut
    for name, rows in groups.items():
        figure.text(left / width, 1 - 1.5 * heading / height, name, fontsize=8, weight="bold", va="center")
        for i in range(rows.shape[1]):
            for row, query in enumerate(queries):
                image = int(rows[query, i])
                bottom = height - 2 * heading - row * (side + gap) - side
                ax = figure.add_axes((left / width, bottom / height, side / width, side / height))
                ax.imshow(images[image].permute(1, 2, 0).numpy(), interpolation="nearest")
                ax.set(xticks=[], yticks=[])
                ax.spines[:].set(visible=name == "query", linewidth=2.5, color="black")
                if name != "query" and known.notna()[query] and known[image] == known[query]:
                    for look in looks:
                        ax.plot(0.86, 0.14, transform=ax.transAxes, **look)
            left += side + gap
        left += apart
    sample: Any = tuple(Line2D([], [], linestyle="", **look) for look in looks)  # both in one place
    figure.legend([sample], [text], loc="upper right", fontsize=8, borderpad=0, borderaxespad=0.3, handlelength=1.5)
    return figure


def attribution_panel(images: Tensor, maps: Tensor, names: Sequence[str]) -> Figure:
    """A column for each image, and under it, on its grey version, a row of maps for each of `names`, on a scale of its own image.

    images `(N, 3, H, W)`, uint8 or float in [0, 1]; maps `(R, N, H, W)`: transparent at 0, four fifths opaque at the map's
    largest, orange above zero, blue below; a map of zeros leaves the grey image bare.
    """
    rows, columns = maps.shape[:2]
    head, gap = 0.95, 0.04  # inches: names at the left; between pictures
    side = min((WIDTH - head) / columns, 0.95)
    figure, axes = plt.subplots(rows + 1, columns, figsize=(head + columns * side, (rows + 1) * side), squeeze=False)
    pictures = images.float() / (1 if images.is_floating_point() else 255)
    up, down = (np.array(sns.color_palette("colorblind")[i]) for i in (1, 0))
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for i, picture in enumerate(pictures):
        axes[0, i].imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
        for r in range(rows):
            values = maps[r, i].numpy()
            strength = 0.8 * np.abs(values) / (np.abs(values).max() or 1)
            layer = np.dstack([np.where(values[..., None] < 0, down, up), strength])
            # Half the contrast around light grey: the map is what is to be read.
            axes[r + 1, i].imshow(
                0.5 + picture.mean(dim=0).numpy() / 2, cmap="gray", vmin=0, vmax=1, interpolation="nearest"
            )
            axes[r + 1, i].imshow(layer, interpolation="nearest")
    for ax, name in zip(axes[:, 0], ["image", *names], strict=True):
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    width = figure.get_figwidth()
    figure.subplots_adjust(head / width, 0.01, 1, 0.99, gap / side, gap / side)
    return figure


def share_map(values: pd.DataFrame, label: str) -> Figure:
    """A labelled matrix of shares in percent with the numbers written in, across the width of the page."""
    figure, ax = plt.subplots(figsize=(WIDTH, 0.28 * len(values) + 0.9), layout="constrained")
    sns.heatmap(
        100 * values, annot=True, fmt=".0f", vmin=0, vmax=100, cmap="cividis", ax=ax, annot_kws={"size": 8},
        cbar_kws={"label": label, "pad": 0.02},
    )  # fmt: skip
    ax.set(xlabel="", ylabel="")
    ax.tick_params(axis="y", rotation=0)
    return figure


def intervals(frame: pd.DataFrame, group: str, label: str, order: Sequence[str], text: str) -> Figure:
    """Means with 95% intervals: one line per `group` value (a task), one mark per `label` value (a method).

    `frame` has the columns `group`, `label`, `mean`, `low`, `high` (the last two NaN where n is 1); `text` labels the x axis.
    """
    groups = list(dict.fromkeys(frame[group]))
    figure, ax = plt.subplots(figsize=(WIDTH, 0.5 * len(groups) + 1.1), layout="constrained")
    offsets = np.linspace(0.32, -0.32, len(order)) if len(order) > 1 else [0.0]
    places = np.arange(len(groups))[::-1]
    for name, offset, marker, colour in zip(order, offsets, MARKERS, sns.color_palette("colorblind"), strict=False):
        part = frame[frame[label] == name].set_index(group).reindex(groups)
        _whiskers(ax, part, places + offset, fmt=marker, color=colour, label=name)
    ax.set_yticks(places, groups)
    ax.set(xlabel=text, ylim=(-0.5, len(groups) - 0.5))
    ax.grid(axis="y", visible=False)
    for border in places[:-1] - 0.5:
        ax.axhline(border, color="0.85", lw=0.8)
    short = sum(map(len, order)) < 50
    figure.legend(loc="outside upper center", ncols=len(order) if short else 3)
    return figure


def effects(
    frame: pd.DataFrame, group: str, label: str, order: Sequence[str], text: str, *, bars: bool = False
) -> Figure:
    """Differences with 95% intervals around zero: a panel per `label` value (a comparison), a mark or bar per `group` value.

    All panels share their scale; there are at most five side by side.
    """
    groups = list(dict.fromkeys(frame[group]))
    columns = min(5, len(order)) or 1  # without any comparison, an empty figure
    rows = -(-len(order) // columns) or 1
    size = WIDTH, rows * (0.24 * len(groups) + 0.3) + 0.6
    figure, axes = plt.subplots(
        rows, columns, figsize=size, sharex=True, sharey=True, layout="constrained", squeeze=False
    )
    places = np.arange(len(groups))[::-1]
    looks = zip(cycle(MARKERS), cycle(sns.color_palette("colorblind")), strict=False)
    for ax, name, (marker, colour) in zip(axes.flat, order, looks, strict=False):
        part = frame[frame[label] == name].set_index(group).reindex(groups)
        ax.axvline(0, color="0.4", lw=1)
        if bars:
            ax.barh(places, part["mean"], height=0.7, color=colour, alpha=0.7)
        _whiskers(ax, part, places, fmt="none" if bars else marker, color="0.2" if bars else colour)
        ax.set_yticks(places, groups)
        ax.set_title(name, fontsize=8)
    axes[0, 0].set_ylim(-0.7, len(groups) - 0.3)
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(3, symmetric=True))
    axes[0, 0].xaxis.set_major_formatter("{x:g}")
    for ax in axes.flat[len(order) :]:
        ax.set_visible(False)
    figure.supxlabel(text, fontsize=9)
    return figure


def _whiskers(ax: Axes, part: pd.DataFrame, y: np.ndarray, **look: Any) -> None:
    """Marks at `mean` with whiskers from `low` to `high`, none where those are NaN."""
    spread = np.nan_to_num(np.stack([part["mean"] - part["low"], part["high"] - part["mean"]]))
    ax.errorbar(part["mean"], y, xerr=spread, ms=4.5, lw=1.3, capsize=2, **look)


def curves(frame: pd.DataFrame, columns: dict[str, str], hue: str, order: Sequence[str]) -> Figure:
    """Training curves over epochs: one panel for each of `columns` (name -> axis label), mean and range over seeds."""
    figure, axes = plt.subplots(1, len(columns), figsize=(WIDTH, 2.6), layout="constrained", squeeze=False)
    for ax, (name, text) in zip(axes.flat, columns.items(), strict=True):
        shown = frame[["epoch", hue, name]].dropna()
        sns.lineplot(
            shown, x="epoch", y=name, hue=hue, hue_order=order, style=hue, style_order=order, ax=ax,
            errorbar=("pi", 100), legend=ax is axes.flat[0],
        )  # fmt: skip
        ax.set(xlabel="epoch", ylabel=text)
    handles, names = axes.flat[0].get_legend_handles_labels()
    axes.flat[0].get_legend().remove()
    figure.legend(handles, names, loc="outside upper center", ncols=min(4, len(order)))
    return figure


def mask_map(masks: Tensor, names: Sequence[str], ax: Axes | None = None) -> Figure:
    """Masks `(K, D)` as a heat map, dimensions sorted by the augmentation that keeps them most, then by its value."""
    values = masks.numpy()
    order = np.lexsort((-values.max(axis=0), values.argmax(axis=0)))
    if ax is None:
        _, ax = plt.subplots(figsize=(WIDTH, 0.36 * len(names) + 0.9), layout="constrained")
    sns.heatmap(
        values[:, order], vmin=0, vmax=1, cmap="cividis", ax=ax, yticklabels=list(names), xticklabels=False,
        cbar_kws={"label": "mask value", "pad": 0.02},
    )  # fmt: skip
    ax.set(xlabel=f"{values.shape[1]} embedding dimensions, sorted", ylabel="")
    ax.tick_params(axis="y", rotation=0)
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    return figure


def matrix(values: pd.DataFrame, label: str, limits: tuple[float, float]) -> Figure:
    """A labelled matrix with its numbers written in, colours between `limits`; across the page with more than eight columns."""
    wide = values.shape[1] > 8
    size = (WIDTH, 0.72 * WIDTH) if wide else (0.62 * WIDTH, 0.5 * WIDTH)
    figure, ax = plt.subplots(figsize=size, layout="constrained")
    sns.heatmap(
        values, annot=True, fmt=".2f", vmin=limits[0], vmax=limits[1], cmap="cividis", square=not wide, ax=ax,
        cbar_kws={"label": label}, annot_kws={"size": 6} if wide else None,
    )  # fmt: skip
    ax.grid(False)  # it would show through where there is no number
    ax.set(xlabel="", ylabel="")
    ax.tick_params(axis="y", rotation=0)
    return figure


def change_map(
    values: pd.DataFrame,
    label: str,
    text: str = "made invariant to",
    *,
    fmt: str = "+.3f",
    sure: pd.DataFrame | None = None,
) -> Figure:
    """A matrix of changes with its numbers written in, blue for worse and orange for better, white at no change.

    `text` labels the columns; numbers where `sure`, a matrix of bools, is true are bold with an asterisk.
    """
    figure, ax = plt.subplots(figsize=(WIDTH, 0.34 * len(values) + 0.8), layout="constrained")
    limit = float(np.nanmax(np.abs(values.to_numpy())))
    sns.heatmap(
        values, annot=True, fmt=fmt, center=0, vmin=-limit, vmax=limit, ax=ax, cbar_kws={"label": label, "pad": 0.02},
        cmap=sns.diverging_palette(245, 40, s=85, l=58, as_cmap=True),
    )  # fmt: skip
    ax.grid(False)  # it would show through where there is no number
    for written in ax.texts if sure is not None else ():
        column, row = (int(place) for place in written.get_position())
        if sure is not None and sure.iloc[row, column]:
            written.set(text=f"{written.get_text()}*", weight="bold")
    ax.set_xticks(ax.get_xticks(), [fill(str(name), 11) for name in values], fontsize=8)  # beside one another
    ax.set(xlabel=text, ylabel="")
    ax.tick_params(axis="y", rotation=0)
    return figure


def clusters(values: pd.DataFrame, linkage: np.ndarray, label: str, limits: tuple[float, float]) -> Figure:
    """A square matrix in the order of the leaves of SciPy's `linkage` of its rows, with that tree above it."""
    figure, axes = plt.subplots(
        2, 2, figsize=(WIDTH, 0.95 * WIDTH), height_ratios=[1, 5], width_ratios=[30, 1], layout="constrained"
    )
    (above, empty), (ax, bar) = axes
    with plt.rc_context({"lines.linewidth": 1}):
        order = hierarchy.dendrogram(linkage, ax=above, color_threshold=0, above_threshold_color="0.3")["leaves"]
    above.set(xticks=[], ylabel="distance")
    above.set_ylim(bottom=0)
    above.tick_params(labelsize=7)
    for one in (above, ax):
        one.grid(False)
    empty.set_visible(False)
    sns.heatmap(
        values.iloc[order, order], annot=True, fmt=".2f", vmin=limits[0], vmax=limits[1], cmap="cividis", ax=ax, cbar_ax=bar,
        cbar_kws={"label": label}, annot_kws={"size": 6 if len(values) > 8 else 8},
    )  # fmt: skip
    ax.set(xlabel="", ylabel="")
    ax.tick_params(axis="y", rotation=0)
    ax.tick_params(axis="x", rotation=90)
    return figure


def panels(
    frame: pd.DataFrame, panel: str, label: str, texts: tuple[str, str], *, identity: bool = False, columns: int = 5
) -> Figure:
    """A small plot for each `panel` value, a line for each `label` value: column mean over column x, shaded from low to high.

    `texts` label the axes. All panels share their scales, but with `identity`, which draws the line y = x in each.
    """
    names, kinds = list(dict.fromkeys(frame[panel])), list(dict.fromkeys(frame[label]))
    across = min(columns, len(names))
    down = -(-len(names) // across)
    size = WIDTH, (1.3 if across > 2 else 2.4) * down + 0.9
    figure, axes = plt.subplots(
        down, across, figsize=size, sharex=not identity, sharey=not identity, layout="constrained", squeeze=False
    )
    for ax, name in zip(axes.flat, names, strict=False):
        for kind, marker, colour in zip(kinds, MARKERS, sns.color_palette("colorblind"), strict=False):
            part = frame[(frame[panel] == name) & (frame[label] == kind)].sort_values("x")
            ax.plot(part["x"], part["mean"], marker=marker, ms=3, lw=1.2, color=colour, label=kind)
            ax.fill_between(part["x"], part["low"], part["high"], color=colour, alpha=0.2, lw=0)
        if identity:
            ends = frame.loc[frame[panel] == name, "x"].agg(["min", "max"])
            ax.plot(ends, ends, color="0.4", lw=0.8, ls="--")
            ax.xaxis.set_major_locator(MaxNLocator(3))
            ax.yaxis.set_major_locator(MaxNLocator(3))
        ax.set_title(name, fontsize=8, pad=3)
        ax.tick_params(labelsize=7)
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    figure.supxlabel(texts[0], fontsize=9)
    figure.supylabel(texts[1], fontsize=9)
    if len(kinds) > 1:
        figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=min(4, len(kinds)))
    return figure


def lines(
    frame: pd.DataFrame,
    x: str,
    y: str,
    kind: str,
    order: Sequence[str],
    texts: tuple[str, str],
    panel: str | None = None,
) -> Figure:
    """Column `y` over `x`, numbers or names in their order: means over seeds with the band of their 95% t interval.

    A line for each `kind` value in `order`, and at most three panels side by side, one for each `panel` value. `texts` label
    the axes. One seed has a line and no band.
    """
    names = [""] if panel is None else list(dict.fromkeys(frame[panel]))
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    size = WIDTH, (2.0 if rows > 1 else 2.6) * rows + 0.8
    figure, axes = plt.subplots(
        rows, columns, figsize=size, sharex=True, sharey=True, layout="constrained", squeeze=False
    )
    for ax, name in zip(axes.flat, names, strict=False):
        shown = frame if panel is None else frame[frame[panel] == name]
        sns.lineplot(
            shown, x=x, y=y, hue=kind, hue_order=order, style=kind, style_order=order, markers=list(MARKERS[: len(order)]),
            dashes=False, errorbar=lambda values: interval(values)[1:3], ax=ax, legend=ax is axes.flat[0],
        )  # fmt: skip
        ax.set(xlabel="", ylabel="", title=name)
        ax.tick_params(axis="x", labelbottom=True)
        if pd.api.types.is_numeric_dtype(frame[x]):
            ax.set_xticks(sorted(set(frame[x])))
        else:
            plt.setp(ax.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor")
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    axes.flat[0].get_legend().remove()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(order)))
    figure.supxlabel(texts[0], fontsize=9)
    figure.supylabel(texts[1], fontsize=9)
    return figure


def points(
    frame: pd.DataFrame, x: str, y: str, kind: str, texts: tuple[str, str], chosen: Sequence[str] = ()
) -> Figure:
    """A mark for each row at columns `x` and `y`, told apart by column `kind`; rows whose index is in `chosen` are named.

    `texts` label the axes.
    """
    figure, ax = plt.subplots(figsize=(WIDTH, 0.5 * WIDTH), layout="constrained")
    kinds = list(dict.fromkeys(frame[kind]))
    for name, marker, colour in zip(kinds, MARKERS, sns.color_palette("colorblind"), strict=False):
        part = frame[frame[kind] == name]
        ax.scatter(part[x], part[y], marker=marker, color=colour, s=36, label=name)
    middle = (frame[x].min() + frame[x].max()) / 2
    for name in chosen:  # on the side that has room
        left = frame.loc[name, x] > middle
        place: dict[str, Any] = {"xytext": (-6, 4) if left else (6, 4), "ha": "right" if left else "left"}
        ax.annotate(name, (frame.loc[name, x], frame.loc[name, y]), textcoords="offset points", fontsize=8, **place)
    ax.set(xlabel=texts[0], ylabel=texts[1])
    figure.legend(loc="outside upper center", ncols=min(5, len(kinds)))
    return figure


def object_colours(count: int) -> list[tuple[float, float, float]]:
    """`count` colours that tell objects apart, RGB in [0, 1]."""
    return [tuple(colour) for colour in sns.color_palette("colorblind", count)]
