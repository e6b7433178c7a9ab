from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mastlib.data import bank
from mastlib.data.pools import POOLS, Pool, load_pool
from mastlib.data.splits import UNSEEN_VENDOR, concept_split, pretraining_weights
from mastlib.errors import InputError
from mastlib.evaluation.protocols import describe_tasks, without_features
from mastlib.evaluation.tasks import (
    CLASSIFICATION,
    SPECIES,
    SPLITTERS,
    get_task,
    headline,
    list_tasks,
    task_classes,
    task_contents,
    task_split,
    task_targets,
)  # fmt: skip

LIMITS = {"objects": None, "latents": 600, "turned": 600, "mirrored": 600, "several": 200}


@pytest.fixture(scope="module")
def pools() -> dict[str, Pool]:
    """The real ones; pictures of the smallest size, for labels are asked."""
    return {name: load_pool(name, 8, limit) for name, limit in LIMITS.items()}


def taking_part(name: str, pools: dict[str, Pool]) -> pd.DataFrame:
    """The rows of the task's pool that take part, with the side they are on."""
    task = get_task(name)
    pool = pools[task.pool]
    known = ~pd.isna(task_classes(task, pool)) if task.kind == CLASSIFICATION else np.ones(len(pool.table), dtype=bool)
    return pool.table.assign(side=task_split(task, pool))[known].dropna(subset="side")


def test_the_registry() -> None:
    names = list_tasks(standard=False)
    assert [get_task(name).name for name in names] == names
    assert set(list_tasks()) < set(names)
    assert {get_task(name).pool for name in names} == set(POOLS)
    assert {get_task(name).split for name in names} == set(SPLITTERS)
    assert not {get_task(name).kind for name in list_tasks()} & {"detection", "segmentation", "information"}
    with pytest.raises(InputError, match="'texture' cannot be used; accepted: category, subcategory"):
        get_task("texture")


@pytest.mark.parametrize("name", list_tasks(standard=False))
def test_sides_are_disjoint_by_concept_or_else_by_vendor(name: str, pools: dict[str, Pool]) -> None:
    task, rows = get_task(name), taking_part(name, pools)
    assert set(rows["side"]) == {"train", "val", "test"}
    group = "vendor" if task.split in ("vendor", "style") else "concept"
    if task.pool != "several":  # whose table is of a scene's first object
        assert rows.groupby(group)["side"].nunique().max() == 1
        return
    sprites, concepts = pools["several"].sprites.numpy(), bank.load_table()["concept"].to_numpy()
    shown = [
        set(concepts[there[there >= 0]]) for there in (sprites[rows["side"] == s] for s in ("train", "val", "test"))
    ]
    assert all(shown) and not shown[0] & shown[1] and not shown[0] & shown[2] and not shown[1] & shown[2]


@pytest.mark.parametrize(
    "name", [n for n in list_tasks(standard=False) if get_task(n).split in ("concept", "unseen", "style")]
)
def test_what_is_tested_on_was_never_trained_on(name: str, pools: dict[str, Pool]) -> None:
    table = bank.load_table()
    seen = set(table["concept"][pretraining_weights(table) > 0])
    rows = taking_part(name, pools)
    assert not set(rows.loc[rows["side"] == "test", "concept"]) & seen
    flags = table[table["flag"].notna() & (table["vendor"] == UNSEEN_VENDOR)].index
    assert (pretraining_weights(table)[flags] == 0).all()


def test_an_unseen_style_is_tested_on_alone_and_on_unseen_concepts(pools: dict[str, Pool]) -> None:
    rows = taking_part("unseen_style", pools)
    assert set(rows.loc[rows["side"] == "test", "vendor"]) == {UNSEEN_VENDOR}
    assert UNSEEN_VENDOR not in set(rows.loc[rows["side"] != "test", "vendor"])
    assert (concept_split(rows["concept"]) == rows["side"]).all()


def test_species_are_concepts_that_no_run_was_trained_on_and_every_class_is_fitted(pools: dict[str, Pool]) -> None:
    rows = taking_part("species", pools)
    assert set(rows["subcategory"]) <= set(SPECIES) and rows["tone"].isna().all()
    assert (rows["split"] != "train").all()
    by_side = rows.groupby("side")["concept"].agg(set)
    assert len(by_side["test"]) > 60 and by_side["test"] <= by_side["train"]


def test_labels_are_targets_or_classes(pools: dict[str, Pool]) -> None:
    latents = pools["latents"].table
    angle = task_targets(get_task("rotation"), pools["latents"])
    np.testing.assert_allclose(np.arctan2(angle[:, 0], angle[:, 1]) / (2 * np.pi), latents["rotation"], atol=1e-6)
    np.testing.assert_allclose(task_targets(get_task("position"), pools["latents"]), latents[["x", "y"]])
    photo = (latents["background_kind"] == 2).to_numpy()
    assert (
        photo.any()
        and (np.isnan(task_targets(get_task("background_hue"), pools["latents"])).all(axis=1) == photo).all()
    )
    kinds = pd.Series(task_classes(get_task("subcategory"), pools["objects"])).value_counts()
    plain = pools["objects"].table["subcategory"].where(pools["objects"].table["tone"].isna()).value_counts()
    pd.testing.assert_series_equal(
        kinds.sort_index(), plain[plain >= 36].sort_index(), check_names=False, check_dtype=False
    )
    with pytest.raises(InputError, match=r"pool objects has no column 'colour', which task hue reads"):
        task_classes(replace(get_task("hue"), labels=("colour",)), pools["objects"])


def test_contents_are_the_categories_of_what_is_visible(pools: dict[str, Pool]) -> None:
    pool, categories = pools["several"], bank.load_table()["category"].to_numpy()
    found = task_contents(get_task("contents"), pool)
    for i in range(0, 200, 17):
        shown = [s for s, box in zip(pool.sprites[i], pool.boxes[i], strict=True) if s >= 0 and box[2] > box[0]]
        assert set(found.columns[found.iloc[i]]) == {categories[s] for s in shown}
    hidden = replace(pool, boxes=pool.boxes * 0)
    assert not task_contents(get_task("contents"), hidden).any(axis=None)
    with pytest.raises(InputError, match="pool objects has no sprites"):
        task_contents(get_task("contents"), pools["objects"])


def test_what_needs_no_features(pools: dict[str, Pool]) -> None:
    table = pools["objects"].table

    def chance(name: str) -> float:
        return without_features(get_task(name), pools[get_task(name).pool])

    assert chance("hue") == 1 / table.loc[table["split"] == "test", "hue"].nunique()
    flags = table[table["flag"].notna()]
    most = flags[flags["vendor"].isin(["twemoji", "openmoji"])]["flag"].value_counts().idxmax()
    assert chance("flag") == pytest.approx((flags[flags["vendor"] == UNSEEN_VENDOR]["flag"] == most).mean())
    assert chance("tone") == pytest.approx(0.2, abs=0.02) and chance("turn") == pytest.approx(0.25, abs=0.06)
    assert chance("facing") == 0.5 and chance("few_shot") == 0.2
    assert chance("scale") == 0 and 0.2 < chance("localisation") < 0.6
    assert 0 < chance("retrieval") < 0.02
    shares = task_contents(get_task("contents"), pools["several"])[
        (pools["several"].table["split"] == "test").to_numpy()
    ].mean()
    assert chance("contents") == pytest.approx(shares[shares > 0].mean())
    empty = replace(pools["objects"], table=table.assign(tone=None))
    with pytest.raises(InputError, match="task tone: split test has no labelled image"):
        without_features(get_task("tone"), empty)


def test_the_headline_is_the_metric_that_a_task_is_known_by() -> None:
    rows = pd.DataFrame(
        {"task": ["hue", "hue", "scale"], "metric": ["accuracy", "mean_recall", "r2"], "value": [1, 2, 3]}
    )
    assert headline(rows)["value"].tolist() == [2, 3]


def test_the_description_counts_the_images_that_a_task_reads(pools: dict[str, Pool]) -> None:
    frame = describe_tasks(pools)
    assert list(frame.index) == list_tasks()
    tones = pools["objects"].table.dropna(subset="tone")
    assert frame.loc["tone", ["train", "val", "test"]].to_dict() == tones["split"].value_counts().to_dict()
    assert frame.loc["tone", "classes or outputs"] == 5
    assert frame.loc["retrieval", ["train", "val"]].tolist() == [0, 0]
    assert (frame["test"] > 0).all()
