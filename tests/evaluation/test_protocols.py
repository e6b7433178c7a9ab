from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from mastlib.data.pools import BOX, Pool, load_pool
from mastlib.evaluation.design import L2_GRID, THIN_GRID
from mastlib.evaluation.fewshot import draw_episodes, few_shot
from mastlib.evaluation.protocols import Score, score, without_features
from mastlib.evaluation.regression import overlap
from mastlib.evaluation.tasks import get_task, task_classes, task_contents, task_split

GRID = (1e-2, 1.0, 100.0)
Seen = Callable[[Pool], torch.Tensor]


def scores(name: str, features: torch.Tensor, pool: Pool, grid: tuple[float, ...] = GRID) -> dict[str, Score]:
    return {found.metric: found for found in score(get_task(name), features, pool, grid)}


@pytest.fixture
def colours(squares: SimpleNamespace) -> Seen:
    return lambda pool: squares.MeanColour()(pool.images.float())


@pytest.fixture
def places(squares: SimpleNamespace) -> Seen:
    return lambda pool: squares.Profiles()(pool.images.float())


def test_features_score_what_they_know_and_chance_otherwise(
    pools: dict[str, Pool], colours: Seen, places: Seen
) -> None:
    colour, place = colours(pools["objects"]), places(pools["latents"])
    assert scores("hue", colour, pools["objects"])["mean_recall"].found.mean == 1
    assert scores("flag", colour, pools["objects"])["accuracy"].found.mean == 1
    assert scores("position", place, pools["latents"])["r2"].found.mean > 0.95
    assert scores("position", colours(pools["latents"]), pools["latents"])["r2"].found.mean == pytest.approx(
        0, abs=0.05
    )
    # Colours are drawn per image: a neighbour of the same colour is the same emoji by chance only.
    assert scores("retrieval", colour, pools["objects"])["recall_at_1"].found.mean < 0.2


def test_the_first_metric_that_is_asked_costs_no_second_fit(
    pools: dict[str, Pool], places: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mastlib.evaluation.protocols.kernel_probe", lambda *_: pytest.fail("fitted"))
    assert next(score(get_task("position"), places(pools["latents"]), pools["latents"], GRID)).metric == "r2"


def test_protocols_say_how(pools: dict[str, Pool], colours: Seen) -> None:
    x, y = colours(pools["objects"]), colours(pools["latents"])
    said = scores("hue", x, pools["objects"], THIN_GRID)["accuracy"].protocol
    assert said == "logistic, L2 by validation (12 of 45 weights), standardised"
    assert "(1 weights)" in scores("hue", x, pools["objects"], (0.5,))["accuracy"].protocol
    found = scores("scale", y, pools["latents"])
    assert found["r2"].protocol == "ridge, alpha by validation (45 weights), standardised"
    assert found["r2_kernel"].protocol == "RBF kernel ridge on 1536 images, by validation, standardised"


def test_few_shot_scores_are_scikit_learns_per_episode() -> None:
    pool = load_pool("objects", 8)
    features = pool.images.float().mean(dim=(2, 3))
    found = scores("few_shot", features, pool)
    assert set(found) == {"accuracy_1", "accuracy_4"} and found["accuracy_1"].found.n == 2000
    task = get_task("few_shot")
    labels, split = task_classes(task, pool), task_split(task, pool)
    episodes = draw_episodes(np.where(split == "test", labels, None), 5, 1, 16, 2000)
    used = np.unique(np.concatenate([episodes.support.flatten(), episodes.query.flatten()]))
    assert (pool.table.loc[used, "split"] == "test").all() and pool.table.loc[used, "tone"].isna().all()
    right = []
    for support, query in zip(episodes.support[:40], episodes.query[:40], strict=True):
        x, q = features[support.flatten()].numpy(), features[query.flatten()].numpy()
        fitted = [
            LogisticRegression(solver="liblinear", C=1.0, tol=1e-8).fit(x, np.arange(5) == way).decision_function(q)
            for way in range(5)
        ]
        right.append((np.argmax(fitted, axis=0) == np.repeat(np.arange(5), 16)).mean())
    part = replace(episodes, support=episodes.support[:40], query=episodes.query[:40])
    np.testing.assert_allclose(few_shot(features, part).each, right, atol=0.013)


def test_a_box_is_regressed_as_scikit_learn_would_and_scored_by_overlap_and_square() -> None:
    pool = load_pool("latents", 16, 1200)
    features = torch.nn.functional.avg_pool2d(pool.images.float(), 2).flatten(1)
    found = scores("localisation", features, pool)
    table, side = pool.table, pool.table["split"].to_numpy()
    fitted, held_out = np.isin(side, ("train", "val")), side == "test"
    rows = StandardScaler().fit(features[torch.tensor(fitted)]).transform(features)
    boxes = table[list(BOX)].to_numpy()
    said = [Ridge(alpha=alpha).fit(rows[fitted], boxes[fitted]).predict(rows[held_out]) for alpha in L2_GRID]
    errors = [((each - boxes[held_out]) ** 2).mean() for each in said]
    matching = int(np.argmin([abs(error - found["mse"].found.mean) for error in errors]))
    assert found["mse"].found.mean == pytest.approx(errors[matching], rel=1e-4)
    assert found["iou"].found.mean == pytest.approx(overlap(said[matching], boxes[held_out]).mean(), rel=1e-4)
    assert found["iou"].found.mean > without_features(get_task("localisation"), pool)


def test_intervals_are_wider_where_pictures_are_of_few_concepts(pools: dict[str, Pool], colours: Seen) -> None:
    """The same answers, right for half of the concepts and wrong for the others."""
    pool = pools["objects"]
    noisy = colours(pool).clone()
    concepts = pd.factorize(pool.table["concept"])[0]
    noisy[torch.tensor(concepts % 10 == 9)] = 0  # a fifth of the concepts is half of those that are tested
    together = scores("hue", noisy, pool)["accuracy"].found
    alone = scores("hue", noisy, replace(pool, table=pool.table.assign(concept=np.arange(len(concepts)))))[
        "accuracy"
    ].found
    assert together.mean == alone.mean < 0.9
    assert together.high - together.low > 1.3 * (alone.high - alone.low)


def test_information_is_the_bound_and_knows_its_images() -> None:
    pool = load_pool("objects", 8, 1500)
    found = scores("information", pool.images.float().mean(dim=(2, 3)), pool)["nats"]
    assert found.found.mean > 1 and "at most" in found.protocol and np.isnan(found.found.low)


def test_contents_of_scenes_are_read_from_what_shows_them() -> None:
    pool = load_pool("several", 8, 200)
    truth = torch.tensor(task_contents(get_task("contents"), pool).to_numpy(dtype=float, copy=True))
    assert scores("contents", truth, pool)["mean_ap"].found.mean > 0.99
    blind = scores("contents", torch.randn(200, 4, generator=torch.Generator().manual_seed(0)), pool)["mean_ap"].found
    assert blind.mean < 0.6
