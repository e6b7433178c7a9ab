"""A study holds every arm and seed, random weights beside them, and no diverged run in a mean."""

import pytest

from mastlib import study
from mastlib.errors import InputError
from mastlib.spec import RunSpec
from mastlib.study import RANDOM, run_study, tier_grid
from mastlib.tiers import TIERS, tier_spec

TINY = {
    "backbone": "resnet_small", "stem": "patch", "width": 4, "projector": (16, 16, 16), "image_size": 16, "images": 128,
    "batch_size": 32, "epochs": 1, "warmup_epochs": 0, "optimizer": "adamw", "lr": 1e-3,
}  # fmt: skip


def test_rows_for_every_arm_and_seed_and_for_random_weights(capsys):
    arms = {"a": RunSpec(**TINY), "b": RunSpec(**TINY, pairing="isolate_one")}
    result = run_study(arms, [0, 1], "smoke", tasks=["tone", "position"])
    assert set(result.rows["arm"]) == {"a", "b", RANDOM}
    assert result.rows.groupby(["arm", "task"])["seed"].nunique().eq(2).all()
    assert [run.spec.seed for run in result.of("a")] == [0, 1]
    assert set(result.metrics()["arm"]) == {"a", "b"}
    assert result.rows["value"].notna().all() and result.left_out == []
    assert "4 runs: 0 there, 4 to train" in capsys.readouterr().err
    run_study(arms, [0, 1], "smoke", tasks=["tone"])
    out, err = capsys.readouterr()
    assert "4 runs, all there" in err and not out


def test_a_diverged_run_is_named_and_left_out(monkeypatch):
    original = study.fit

    def fit(spec):
        run = original(spec)
        if spec.seed == 1:
            run.info.update(status="diverged", reason="step 3: loss not finite")
        return run

    monkeypatch.setattr(study, "fit", fit)
    monkeypatch.setattr(study, "there", lambda spec: None)
    result = run_study({"a": RunSpec(**TINY)}, [0, 1], "smoke", tasks=["tone"])
    assert result.left_out == ["a, seed 1: diverged, step 3: loss not finite"]
    assert set(result.rows[result.rows["arm"] == "a"]["seed"]) == {0}


@pytest.mark.parametrize("seeds", [[], [0, 0], [1.5], [-1], [True]])
def test_seeds_must_be_different_integers(seeds):
    with pytest.raises(InputError, match="seed"):
        run_study({"a": RunSpec(**TINY)}, seeds, "smoke")


def test_arms_with_different_backbones_are_refused():
    with pytest.raises(InputError, match="backbone"):
        run_study({"a": RunSpec(**TINY), "b": RunSpec(**{**TINY, "width": 8})}, [0], "smoke")


def test_looc_with_and_without_its_own_stages_can_be_compared():
    looc = {**TINY, "host": "moco", "queue": 64, "awareness": "looc", "pairing": "leave_one_out"}
    looc |= {"augmentations": "standard5", "projector": (16, 16)}
    arms = {"LooC": RunSpec(**looc), "LooC++": RunSpec(**looc, looc_stages=True), "VICReg": RunSpec(**TINY)}
    result = run_study(arms, [0], "smoke", tasks=["position"])
    assert set(result.rows["arm"]) == {*arms, RANDOM}


@pytest.mark.parametrize("tier", TIERS)
def test_every_tier_gives_a_valid_spec_and_grid(tier):
    assert tier_spec(tier).images >= 64
    assert tier_spec(tier, seed=3).seed == 3
    grid = tier_grid(tier)
    assert grid[0] == pytest.approx(1e-6) and grid[-1] == pytest.approx(1e5)


def test_an_unknown_tier_or_setting_is_refused():
    with pytest.raises(InputError, match="tier"):
        tier_spec("huge")
    with pytest.raises(InputError, match="epochs"):
        tier_spec("smoke", epoch=3)
