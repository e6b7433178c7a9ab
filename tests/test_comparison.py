"""Measurements beside the tasks: planted networks, scikit-learn's neighbours, pixels that no network changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from mastlib import comparison, experiments
from mastlib.evaluation.conditioning import agreement
from mastlib.evaluation.features import extract
from mastlib.evaluation.layers import layer_sensitivity
from mastlib.evaluation.retrieval import NEIGHBOURS
from mastlib.spec import RunSpec
from mastlib.stats import crossed
from mastlib.study import RANDOM, Study, run_study

TINY = {"width": 4, "images": 128, "batch_size": 64, "epochs": 1, "warmup_epochs": 0, "image_size": 16}
PLAIN, AUGSELF, CASSLE, STRONG = "MoCo", "MoCo + AugSelf", "MoCo + CASSLE", "MoCo, augself_strong"


@pytest.fixture(scope="module")
def study() -> Study:
    arms = experiments.rivals("smoke", [], "standard5", "moco", "moco", [], ["augself_strong"], TINY)
    return run_study(
        {arm: arms[arm] for arm in (PLAIN, AUGSELF, CASSLE, STRONG)}, [0, 1], "smoke", ["category", "position"]
    )


@dataclass
class Planted:
    """A network that is known."""

    net: nn.Module
    run: None = None

    def backbone(self) -> nn.Module:
        return self.net


class Colours(nn.Module):
    """The mean colour of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)) * self.weight


class Shapes(Colours):
    """Brightness at eight by eight places, without its mean: nothing of colour."""

    def forward(self, images: Tensor) -> Tensor:
        grey = nn.functional.adaptive_avg_pool2d(images.mean(dim=1, keepdim=True), 8).flatten(1)
        return (grey - grey.mean(dim=1, keepdim=True)) * self.weight


def test_a_network_of_colours_finds_them_and_one_of_shapes_does_not():
    by_colour, by_shape = (
        comparison.neighbours_of(Planted(net), 16, 3000).set_index("measure") for net in (Colours(), Shapes())
    )
    assert by_colour.loc["hue precision", "value"] > by_shape.loc["hue precision", "value"] + 0.05
    assert by_colour.loc["colour distance", "value"] < by_shape.loc["colour distance", "value"] - 0.02
    assert by_shape.loc["hue precision", "value"] > by_shape.loc["hue precision", "chance"]
    known, tell = (comparison.information_of(Planted(net), 16, 3000).iloc[0] for net in (Colours(), Shapes()))
    assert known["value"] > tell["value"] + 0.3 and known["value"] < known["ceiling"] == tell["ceiling"]


def test_what_is_retrieved_is_what_scikit_learn_finds(study):
    images, queries, found, hues = comparison.retrieved(study, [PLAIN, RANDOM], "smoke", 5)
    _, table = comparison.objects(16, 3000)
    assert len(images) == len(hues) == len(table) and hues.iloc[queries].notna().all() and len(set(queries)) == 5
    assert set(table["split"]) == {"test"} and table["tone"].isna().all()
    assert list(found) == [PLAIN, RANDOM]
    for model in comparison.first_seed(study).models([PLAIN, RANDOM]):
        features = extract(model.backbone(), images).double().numpy()
        features -= features.mean(axis=0)
        nearest = NearestNeighbors(n_neighbors=NEIGHBOURS + 1, metric="cosine").fit(features)
        theirs = nearest.kneighbors(features[queries], return_distance=False)
        assert [row[row != query].tolist()[:NEIGHBOURS] for query, row in zip(queries, theirs, strict=True)] == [
            found[model.arm][query].tolist() for query in queries
        ]


def test_information_is_of_each_network_by_the_jitter_it_was_trained_with(study):
    found = comparison.colour_information(study, [PLAIN, STRONG], "smoke", 1500)
    assert found.groupby("arm")["strength"].unique().map(sorted).to_dict() == {PLAIN: [1], STRONG: [2], RANDOM: [1, 2]}
    assert found.groupby(["arm", "strength"])["seed"].unique().map(sorted).tolist() == [[0, 1]] * 4
    alike = found[found["arm"] == RANDOM].pivot(index="seed", columns="strength", values="value")
    assert (alike[1.0] == alike[2.0]).all() and found[found["arm"] != RANDOM]["value"].nunique() == 4


@pytest.mark.parametrize(
    ("preset", "strength"), [("augself_weak", 0.5), ("standard5", 1), ("augself_strong", 2), ("spatial", 0)]
)
def test_the_strength_of_jitter_is_that_of_the_preset(preset, strength):
    assert comparison.jitter_strength(RunSpec(augmentations=preset)) == pytest.approx(strength)


def test_projectors_are_asked_with_images_of_the_validation_concepts(study):
    found = comparison.told_right_or_wrong(study, 64)
    assert set(found["arm"]) == {CASSLE} and len(found) == 2 * 4
    images = comparison.asked(16, 64)
    direct = agreement(study.runs[CASSLE, 1], images)
    assert found[found["seed"] == 1].set_index("told")["value"].to_dict() == direct and len(images) == 64


def test_layers_are_above_what_unchanged_images_have(study):
    found = comparison.by_layer(study, [PLAIN, CASSLE], 64, [0.5, 1])
    keys = ["layer", "augmentation", "strength"]
    pixels = found[found["layer"] == "input"].pivot(index=keys, columns=["arm", "seed"], values="value")
    assert len(pixels) == 3 + 2 * 2 and pixels.std(axis=1).max() == 0, "the same changes for every network"
    assert (pixels.loc["input", "crop"] > 0).all(axis=None)
    direct = layer_sensitivity(study.runs[PLAIN, 0], comparison.asked(16, 64), strengths=[0.5, 1], batch=64)
    value = direct[direct["metric"] == "infonce"].set_index(keys)["value"]
    mine = found[(found["arm"] == PLAIN) & (found["seed"] == 0)].set_index(keys)["value"]
    for layer, name, strength in (("stage1", "color", 0.5), ("backbone", "crop", 1.0), ("projector", "blur", 1.0)):
        expected = value[layer, name, strength] - value[layer, "none", 0.0]
        assert mine[layer, name, strength] == pytest.approx(expected)
    assert set(found[found["layer"] != "projector"]["told"]) == {""}
    behind = found[found["layer"] == "projector"].groupby("arm")["told"].agg(set)
    assert behind[PLAIN] == {""} and {"right", "resampled"} <= behind[CASSLE]


def test_scenes_are_scored_with_the_first_seed_alone(study):
    found = comparison.several_objects(study, [PLAIN], "smoke", ["position"])
    mine = found[found["metric"] == "r2"]
    theirs = study.rows.query("arm == @PLAIN and seed == 0 and task == 'position'")
    assert mine["seed"].tolist() == [0] and mine["value"].tolist() == pytest.approx(theirs["value"].tolist())
    none = comparison.several_objects(study, [PLAIN], "smoke", [])
    assert len(none) == 0 and list(none) == list(found)


def rows(arms: dict[str, tuple[int, ...]]) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    table = [(a, s, h, "t", draw.normal()) for a, seeds in arms.items() for s in seeds for h in ("x", "y")]
    return pd.DataFrame(table, columns=["arm", "seed", "host", "task", "value"])


def test_a_comparison_is_there_where_its_arms_share_a_seed():
    found = rows({"a": (0, 1), "b": (1, 2), "c": (2,)})
    asked = {"both": ("a", "b"), "apart": ("a", "c"), "gone": ("a", "d")}
    assert comparison.there(found, asked) == {"both": ("a", "b")}


def test_changes_over_hosts_are_of_all_hosts_and_seeds_like_these():
    found = rows({"a": (0, 1, 2), "b": (0, 1, 2), "c": (0,)})
    every = comparison.over_hosts(found, {"a - b": ("a", "b"), "a - d": ("a", "d")})
    wide = found.pivot(index=["seed", "host"], columns="arm", values="value")
    both = (wide["a"] - wide["b"]).unstack("host")
    assert every[["task", "comparison"]].to_numpy().tolist() == [["t", "a - b"]]
    assert every.iloc[0, 2:].tolist() == pytest.approx(list(crossed(both)))
    one = comparison.over_hosts(found[found["host"] == "x"], {"a - b": ("a", "b")})
    theirs = stats.ttest_1samp(both["x"], 0).confidence_interval(0.95)
    assert one.iloc[0, 2:5].tolist() == pytest.approx([both["x"].mean(), theirs.low, theirs.high])


def test_words_follow_from_the_numbers():
    assert comparison.spelled(0.012, 0.003, 0.021) == "+1.2 [+0.3, +2.1]"
    assert comparison.spelled(-0.5, np.nan, np.nan, 1, 2) == "-0.50"
    assert [comparison.says(*pair) for pair in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1), (np.nan, np.nan))] == [
        "raises", "lowers", *["does not measurably change"] * 2,
    ]  # fmt: skip
    row = pd.Series({"what": "on place", "effect": 0.01, "low": -0.02, "high": 0.04, "unit": "score"})
    assert comparison.deciding(row) == "on place: +1.0 [-2.0, +4.0] points"
    assert comparison.deciding(row.replace("score", "nats")) == "on place: +0.01 [-0.02, +0.04] nats"
    assert comparison.deciding(row.replace(0.01, np.nan)) == "on place"
