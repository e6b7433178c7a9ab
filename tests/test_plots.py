"""Figures show what they are given: every group, every arm, every number, labelled."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from mastlib import plots

ROWS = pd.DataFrame(
    [(t, a, m, m - 0.1, m + 0.2) for t, m in (("tone", 0.5), ("flag", 0.3)) for a in ("x", "y")],
    columns=["task", "arm", "mean", "low", "high"],
)


@pytest.fixture(autouse=True)
def closed():
    plots.style()
    yield
    plt.close("all")


def test_intervals_reach_from_low_to_high():
    figure = plots.intervals(ROWS, "task", "arm", ["x", "y"], "score")
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["tone", "flag"]
    ends = np.array(ax.containers[0].lines[2][0].get_segments())[:, :, 0]
    np.testing.assert_allclose(ends, [[0.4, 0.7], [0.2, 0.5]])
    assert ax.get_xlabel() == "score" and ax.get_ylim() == (-0.5, 1.5)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["x", "y"]


def test_one_seed_has_a_mark_and_no_whisker():
    figure = plots.intervals(ROWS.assign(low=np.nan, high=np.nan), "task", "arm", ["x", "y"], "score")
    ends = np.array(figure.axes[0].containers[0].lines[2][0].get_segments())[:, :, 0]
    assert (np.diff(ends) == 0).all()


def test_effects_have_a_panel_per_comparison():
    figure = plots.effects(ROWS, "task", "arm", ["x", "y"], "difference")
    assert [ax.get_title() for ax in figure.axes] == ["x", "y"]
    nothing = plots.effects(ROWS[:0], "task", "arm", [], "difference")
    assert [ax.get_visible() for ax in nothing.axes] == [False]


def test_effects_of_many_comparisons_lose_none_and_bars_are_as_long_as_means():
    names = [f"c{i}" for i in range(13)]
    rows = pd.DataFrame(
        [(task, name, i - k, i - k - 1, i - k + 1) for i, name in enumerate(names) for k, task in enumerate("tu")],
        columns=["task", "arm", "mean", "low", "high"],
    )
    figure = plots.effects(rows, "task", "arm", names, "difference", bars=True)
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title() for ax in shown] == names and len({ax.get_xlim() for ax in shown}) == 1
    assert [[bar.get_width() for bar in ax.patches] for ax in shown] == [[i, i - 1] for i in range(13)]


def test_mask_map_sorts_dimensions_and_loses_none():
    masks = torch.rand(3, 40, generator=torch.Generator().manual_seed(0))
    figure = plots.mask_map(masks, ["a", "b", "c"])
    shown = figure.axes[0].collections[0].get_array().reshape(3, 40)
    assert (np.diff(shown.argmax(0)) >= 0).all()
    np.testing.assert_allclose(np.sort(shown.ravel()), np.sort(masks.numpy().ravel()))


def test_curves_and_maps_draw_every_series():
    rows = [(e, a, s, e * 1.0) for e in (1, 2) for a in "xy" for s in (0, 1)]
    frame = pd.DataFrame(rows, columns=["epoch", "arm", "seed", "loss"])
    figure = plots.curves(frame, {"loss": "the loss"}, "arm", ["x", "y"])
    assert figure.axes[0].get_ylabel() == "the loss" and len(figure.legends[0].get_texts()) == 2
    wide = pd.DataFrame([[0.1, -0.2], [0.0, 0.3]], index=["t", "u"], columns=["p", "q"])
    texts = {t.get_text() for t in plots.change_map(wide, "change").axes[0].texts}
    assert texts == {"+0.100", "-0.200", "+0.000", "+0.300"}
    assert {t.get_text() for t in plots.matrix(wide, "cosine", (-1, 1)).axes[0].texts} == {
        "0.10",
        "-0.20",
        "0.00",
        "0.30",
    }


def test_a_change_map_marks_what_is_sure_and_nothing_else():
    wide = pd.DataFrame([[1.0, -2.0], [np.nan, 3.0]], index=["t", "u"], columns=["place and size", "q"])
    sure = pd.DataFrame([[False, True], [True, False]], index=wide.index, columns=wide.columns)
    ax = plots.change_map(wide, "points", "task", fmt="+.1f", sure=sure).axes[0]
    assert [t.get_text() for t in ax.texts] == ["+1.0", "-2.0*", "+3.0"] and ax.get_xlabel() == "task"
    assert [t.get_weight() for t in ax.texts] == ["normal", "bold", "normal"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["place and\nsize", "q"]


def test_lines_have_means_and_students_interval_over_seeds_in_panels():
    draw = np.random.default_rng(0)
    rows = [(p, x, k, s, draw.normal()) for p in "uvwz" for x in ("b", "a") for k in ("m", "n") for s in range(3)]
    frame = pd.DataFrame(rows, columns=["panel", "x", "kind", "seed", "y"])
    figure = plots.lines(frame, "x", "y", "kind", ["n", "m"], ("across", "up"), "panel")
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title() for ax in shown] == list("uvwz") and len({ax.get_ylim() for ax in shown}) == 1
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["n", "m"]
    for ax, name in zip(shown, "uvwz", strict=True):
        for line, band, kind in zip(ax.lines, ax.collections, ["n", "m"], strict=False):
            mine = frame[(frame["panel"] == name) & (frame["kind"] == kind)].groupby("x", sort=False)["y"]
            np.testing.assert_allclose(line.get_ydata(), mine.mean())
            low, high = scipy.stats.t.interval(0.95, 2, mine.mean(), mine.sem())
            corners = band.get_paths()[0].vertices[:, 1]
            assert (corners.min(), corners.max()) == pytest.approx((low.min(), high.max()))
    alone = plots.lines(
        frame[(frame["seed"] == 0) & (frame["panel"] == "u")], "x", "y", "kind", ["m"], ("across", "up")
    )
    assert len(alone.axes) == 1 and np.isfinite(alone.axes[0].lines[0].get_ydata()).all()


def test_contact_sheet_has_a_cell_for_each_image():
    figure = plots.contact_sheet(torch.rand(5, 3, 4, 4), titles=list("abcde"), columns=3)
    assert sum(bool(ax.images) for ax in figure.axes) == 5
    assert len(set(plots.object_colours(5))) == 5


def test_retrieval_panel_frames_queries_and_ticks_neighbours_with_their_key():
    images = torch.linspace(0, 1, 6)[:, None, None, None].expand(-1, 3, 4, 4)  # each says which it is
    found = {
        "plain": torch.tensor([[1, 2], [0, 3], [4, 5], [0, 1], [5, 0], [1, 0]]),
        "aware": torch.tensor([[5, 1], [2, 0], [3, 4], [2, 1], [2, 1], [4, 3]]),
    }
    keys = ["a", "a", None, "b", None, "a"]
    figure = plots.retrieval_panel(images, [0, 2], found, keys, "same letter")
    shown = [(round(5 * float(ax.images[0].get_array()[0, 0, 0])), ax) for ax in figure.axes]
    assert all(ax.images[0].get_array().shape == (4, 4, 3) for _, ax in shown)
    place = {ax: tuple(ax.get_position().bounds[:2]) for _, ax in shown}
    rows = sorted({round(-y, 6) for _, y in place.values()})  # from the top
    laid = [sorted((place[ax][0], image, ax) for image, ax in shown if round(-place[ax][1], 6) == row) for row in rows]
    assert [[image for _, image, _ in row] for row in laid] == [[0, 1, 2, 5, 1], [2, 4, 5, 3, 4]]
    assert [[ax.spines["top"].get_visible() for *_, ax in row] for row in laid] == [[True] + [False] * 4] * 2
    assert [[bool(ax.lines) for *_, ax in row] for row in laid] == [[False, True, False, True, True], [False] * 5]
    assert [text.get_text() for text in figure.texts] == ["query", "plain", "aware"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["same letter"]


def test_an_attribution_panel_shows_each_map_over_its_image():
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    maps = torch.zeros(2, 4, 8, 8)
    maps[0, :, 2, 5], maps[1, :, 3, 6] = 3.0, -0.5
    maps[0, 0], maps[0, 1, 0, 0] = 0.0, 1.5
    figure = plots.attribution_panel(images, maps, ["upper", "lower"])
    assert [ax.get_ylabel() for ax in figure.axes[::4]] == ["image", "upper", "lower"]
    shown = [[picture.get_array() for picture in ax.images] for ax in figure.axes]
    np.testing.assert_allclose(shown[1][0], images[1].permute(1, 2, 0))
    grey, layer = shown[4 + 1]
    assert np.corrcoef(grey.ravel(), images[1].mean(dim=0).ravel())[0, 1] > 0.999
    np.testing.assert_allclose(layer[..., 3], 0.8 * maps[0, 1] / 3, rtol=1e-6)  # each map has a scale of its own
    assert shown[4][1][..., 3].max() == 0  # nothing to see
    above, below = layer[2, 5, :3], shown[8 + 2][1][3, 6, :3]
    assert above[0] > above[2] and below[2] > below[0] and shown[8 + 2][1][3, 6, 3] == pytest.approx(0.8)
    with pytest.raises(ValueError):
        plots.attribution_panel(images, maps, ["upper"])


def test_points_draw_every_row_and_name_the_chosen_ones():
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [3.0, 1.0, 2.0], "kind": ["a", "b", "a"]}, index=["p", "q", "r"])
    figure = plots.points(frame, "x", "y", "kind", ("across", "up"), ["q"])
    ax = figure.axes[0]
    assert sorted(tuple(xy) for dots in ax.collections for xy in dots.get_offsets().tolist()) == [
        (1, 3),
        (2, 1),
        (3, 2),
    ]
    assert [text.get_text() for text in ax.texts] == ["q"] and ax.texts[0].xy == (2, 1)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("across", "up")
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a", "b"]


def test_clusters_are_in_the_order_of_the_tree_and_keep_every_number():
    values = pd.DataFrame(np.eye(4), index=list("abcd"), columns=list("abcd"))
    values.loc["a", "c"] = values.loc["c", "a"] = 0.9
    values.loc["b", "d"] = values.loc["d", "b"] = 0.7
    joined = hierarchy.linkage(squareform(1 - values.to_numpy()), "average")
    figure = plots.clusters(values, joined, "likeness", (-1, 1))
    ax = next(ax for ax in figure.axes if ax.texts)
    order = [t.get_text() for t in ax.get_yticklabels()]
    assert order == [t.get_text() for t in ax.get_xticklabels()] and {*order[:2]} in ({"a", "c"}, {"b", "d"})
    shown = ax.collections[0].get_array().reshape(4, 4)
    np.testing.assert_array_equal(shown, values.loc[order, order])
    heights = sorted(
        max(y) for path in figure.axes[0].collections for y in [p.vertices[:, 1] for p in path.get_paths()]
    )
    np.testing.assert_allclose(heights, [0.1, 0.3, 1.0])


def test_panels_have_a_line_with_its_band_for_every_kind():
    rows = [(p, k, x, x + i, x + i - 1, x + i + 1) for p in "pqr" for i, k in enumerate("kl") for x in (2.0, 0.0, 1.0)]
    frame = pd.DataFrame(rows, columns=["panel", "kind", "x", "mean", "low", "high"])
    figure = plots.panels(frame, "panel", "kind", ("across", "up"), columns=2)
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title() for ax in shown] == list("pqr") and len({ax.get_ylim() for ax in shown}) == 1
    assert [line.get_xydata().tolist() for line in shown[1].lines] == [[[x, x + i] for x in (0, 1, 2)] for i in (0, 1)]
    band = shown[0].collections[1].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (0, 4)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["k", "l"]
    one = plots.panels(frame[frame["kind"] == "k"], "panel", "kind", ("across", "up"), identity=True)
    assert not one.legends and all((ax.lines[1].get_xydata() == [[0, 0], [2, 2]]).all() for ax in one.axes)


def test_a_wide_matrix_and_a_map_of_changes_write_every_number():
    wide = pd.DataFrame(np.arange(90).reshape(9, 10) / 100)
    texts = [float(t.get_text()) for t in plots.matrix(wide, "share", (0, 1)).axes[0].texts]
    np.testing.assert_allclose(texts, wide.to_numpy().ravel())
    ax = plots.change_map(wide - 0.4, "change", "kept", fmt="+.2f").axes[0]
    assert ax.get_xlabel() == "kept" and ax.texts[0].get_text() == "-0.40"
