"""What is measured of a study's masks: against masks made by hand, and against the analyses run by run."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from mastlib import experiments, masked
from mastlib.data.pools import load_pool, side_of
from mastlib.errors import InputError
from mastlib.evaluation.ablation import ablate, masked_features
from mastlib.evaluation.attribution import grad_cam, object_masks, pointing, subspace_energies
from mastlib.evaluation.masks import read_masks
from mastlib.evaluation.subspaces import invariance, own
from mastlib.evaluation.tasks import TASK_GROUPS, get_task
from mastlib.masked import Learned
from mastlib.methods.masks import overlap
from mastlib.study import run_study, tier_grid, tier_pools
from mastlib.tiers import tier_spec

TINY = {"width": 4, "images": 128, "batch_size": 64, "epochs": 1, "warmup_epochs": 0, "image_size": 16}
ARM = experiments.FIVE
GROUPS = {"a": "one", "b": "one", "x": "two", "y": "two"}


@pytest.fixture(scope="module")
def study():
    arms = {ARM: experiments.masks("smoke", "standard5", TINY)[ARM]}
    return run_study(arms, [0, 1], "smoke", ["category"])


def made(noise: float = 0.3, seeds: int = 2) -> Learned:
    """a and b choose alike, and so do x and y."""
    draw = torch.Generator().manual_seed(0)
    base = torch.rand(seeds, 2, 100, generator=draw)[:, [0, 0, 1, 1]]
    rows = (1 - noise) * base + noise * torch.rand(base.shape, generator=draw)
    return Learned(tuple(GROUPS), GROUPS, dict(enumerate(rows)))


def test_masks_are_read_run_by_run(study):
    found = masked.learned(study, ARM)
    assert found.names == ("crop", "flip", "color", "grayscale", "blur") and list(found.masks) == [0, 1]
    assert found.groups["crop"] == found.groups["flip"] == "spatial" != found.groups["color"]
    for seed, run in enumerate(study.of(ARM)):
        torch.testing.assert_close(found.masks[seed].float(), read_masks(run))
    shares = torch.stack([(read_masks(run) >= 0.5).double().mean(dim=1) for run in study.of(ARM)]).mean(dim=0)
    assert masked.sizes(found).tolist() == pytest.approx(shares.tolist())


def test_likeness_of_seeds_together_is_their_mean():
    found = made()
    mean = torch.stack([overlap(rows) for rows in found.masks.values()]).mean(dim=0)
    torch.testing.assert_close(overlap(found.together()), mean, atol=1e-5, rtol=0)
    table = masked.alike(found)
    assert set(table["pair"]) == {"a, b", "a, x", "a, y", "b, x", "b, y", "x, y"} and len(table) == 12
    row = table[(table["seed"] == 1) & (table["pair"] == "b, y")].iloc[0]
    assert row["value"] == pytest.approx(np.corrcoef(found.masks[1].numpy())[1, 3], abs=1e-5)
    turned = Learned(("y", "x", "b", "a"), GROUPS, {s: rows.flip(0) for s, rows in found.masks.items()})
    pd.testing.assert_frame_equal(
        masked.alike(turned).sort_values(["seed", "pair"], ignore_index=True),
        table.sort_values(["seed", "pair"], ignore_index=True), rtol=1e-6,
    )  # fmt: skip


def test_kin_finds_groups_that_choose_alike_and_no_others():
    table = masked.kin(made()).set_index("seed")
    assert list(table.index) == ["0", "1", "all"] and (table["p"] == 8 / 24).all()  # as low as four names go
    assert table.loc["all", "within"] == pytest.approx(table.loc[["0", "1"], "within"].mean(), abs=1e-5)
    assert (table["within"] > 0.5).all() and (table["between"].abs() < 0.4).all()
    mixed = Learned(tuple(GROUPS), {"a": "1", "b": "2", "x": "1", "y": "2"}, made().masks)
    assert (masked.kin(mixed)["p"] > 0.6).all()
    assert masked.kin(Learned(("a", "b"), GROUPS, {0: made().masks[0][:2]})).empty
    assert masked.kin(Learned(("a", "x"), GROUPS, {0: made().masks[0][[0, 2]]})).empty


def test_two_names_of_one_augmentation_are_set_against_other_pairs():
    found = masked.doubled(made(), "b", "a").set_index("seed")
    likeness = np.corrcoef(made().masks[1].numpy())
    assert found.loc[1, "twins"] == pytest.approx(likeness[0, 1], abs=1e-5)
    rest = [likeness[i, j] for i, j in ((0, 2), (0, 3), (1, 2), (1, 3), (2, 3))]
    assert found.loc[1, "others"] == pytest.approx(np.mean(rest), abs=1e-5)
    assert (
        found.loc[1, "place"] == pytest.approx(np.mean(np.array(rest) < likeness[0, 1]))
        and found.loc[1, "place"] >= 0.8
    )
    assert (masked.doubled(made(), "a", "x")["place"] <= 0.6).all()
    with pytest.raises(InputError, match="augmentation = 'z'"):
        masked.doubled(made(), "a", "z")


def test_a_mask_without_a_choice_takes_no_part():
    found = made()
    found.masks[1][2] = 0.5
    kept = found.choosing()
    assert kept.names == ("a", "b", "y") and all(rows.shape == (3, 100) for rows in kept.masks.values())
    assert torch.equal(kept.masks[0], found.masks[0][[0, 1, 3]])


def test_variation_is_the_invariance_of_each_run(study):
    table = masked.variation(study, ARM, 40)
    assert len(table) == 2 * 6 * 5
    pool = load_pool("objects", 16)
    images = pool.images[torch.from_numpy(side_of(pool, "val", 40))]
    expected = [invariance(run, images) for run in study.of(ARM)]
    row = table.query("seed == 1 and subspace == 'flip' and augmentation == 'color'").iloc[0]
    assert row["value"] == pytest.approx(expected[1].loc["flip", "color"])
    ratios = [one.drop("full space") / one.loc["full space"] for one in expected]
    shown = masked.relative(table)
    pd.testing.assert_frame_equal(shown, (ratios[0] + ratios[1]) / 2, check_names=False)
    assert list(shown.index) == list(shown.columns) == ["crop", "flip", "color", "grayscale", "blur"]
    mine = masked.owned(table)
    for seed, one in enumerate(expected):
        pd.testing.assert_frame_equal(
            mine[mine["seed"] == seed].set_index("augmentation").drop(columns="seed"), own(one), check_names=False
        )


def test_tasks_on_subspaces_are_those_of_the_analysis(study, monkeypatch):
    assert {group for group, tasks in TASK_GROUPS.items() if set(tasks) & set(masked.TASKS)} == set(TASK_GROUPS)
    monkeypatch.setattr(masked, "TASKS", ("facing", "few_shot"))
    table = masked.ablation(study, ARM, "smoke")
    assert set(table["task"]) == {"facing", "few_shot"} and not table["space"].str.contains("without").any()
    run, pools, grid = study.runs[ARM, 1], tier_pools("smoke", 16, ["facing"]), tier_grid("smoke")
    features = masked_features(run, pools["mirrored"].images)
    expected = ablate(
        get_task("facing"), features, read_masks(run), run.info["augmentations"], pools["mirrored"], 0, grid
    )
    row = table.query("seed == 1 and task == 'facing' and space == 'only color'").iloc[0]
    assert row["value"] == expected.set_index("space").loc["only color", "value"]
    lost = masked.importances(study, ARM, "smoke")
    assert set(lost["task"]) == {"facing"} and len(lost[lost["draw"] == 0]) == 2 * 2 * 5  # two seeds, two metrics


def test_maps_are_what_pointing_judges(study):
    table = masked.looks(study, ARM, 12)
    assert list(table.columns) == ["arm", "seed", "subspace", "hit", "share", "chance", "n"] and len(table) == 2 * 6
    images, maps = masked.maps(study, ARM, ["full space", "crop"], 12)
    found = object_masks(16, 12)
    assert torch.equal(images, found.images[: masked.PICTURES]) and maps.shape == (2, masked.PICTURES, 16, 16)
    energy = subspace_energies(study.runs[ARM, 0], found.images)["crop"]
    expected = grad_cam(energy, images, others=found.twins[: masked.PICTURES])
    expected = 255 * expected / expected.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)  # some are of zeros
    assert (expected.amax(dim=(1, 2)) > 254).sum() >= 2
    torch.testing.assert_close(maps[1], expected, atol=0.5001, rtol=0)
    assert not torch.equal(maps[0], maps[1])
    chances = pointing(torch.ones(12, 16, 16), found.masks)["chance"].mean()
    assert table["chance"].tolist() == pytest.approx([chances] * 12)


def test_a_jitter_that_is_there_twice_gets_like_masks_where_nothing_keeps_them_apart():
    longer = {**TINY, "images": 2048, "epochs": 6, "warmup_epochs": 0.3}
    arm = experiments.FREE
    trained = run_study({arm: experiments.masks("smoke", "standard5", longer)[arm]}, [0], "smoke", ["facing"])
    (row,) = masked.doubled(masked.learned(trained, arm), "color", "color_again").itertuples()
    assert row.place == 1 and row.twins > row.others + 0.3


def test_runs_without_masks_are_refused():
    plain = run_study({"VICReg": tier_spec("smoke", **TINY)}, [0], "smoke", ["category"])
    with pytest.raises(InputError, match="mast"):
        masked.learned(plain, "VICReg")
