"""How alike views are to a projector that is told right or wrong, by planted projectors."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mastlib.errors import InputError
from mastlib.evaluation import conditioning
from mastlib.evaluation.conditioning import agreement
from mastlib.methods.base import Method
from mastlib.spec import RunSpec
from mastlib.training import fit

TINY = RunSpec(
    backbone="resnet_small", stem="patch", width=4, projector=(16, 10), image_size=16, images=64, batch_size=32, epochs=1,
    warmup_epochs=0, optimizer="adamw", lr=1e-3, augmentations="standard5", host="simclr", awareness="cassle",
)  # fmt: skip
DRAW = torch.Generator().manual_seed(0)
IMAGES = torch.rand(300, 3, 16, 16, generator=DRAW) ** torch.rand(300, 3, 1, 1, generator=DRAW).mul(3)


def planted(monkeypatch: pytest.MonkeyPatch, project) -> dict[str, float]:  # type: ignore[no-untyped-def]
    run = fit(TINY, progress=False)
    made = conditioning.trained_method

    def with_projector(run) -> Method:  # type: ignore[no-untyped-def]
        method = made(run)
        method.projector.forward = lambda features, condition: (project(features, condition), features)
        return method

    monkeypatch.setattr(conditioning, "trained_method", with_projector)
    return agreement(run, IMAGES)


def test_a_projector_that_ignores_the_descriptor_agrees_as_much_when_told_wrong(monkeypatch):
    found = planted(monkeypatch, lambda f, w: f - f.mean(dim=0))
    assert found["right"] == pytest.approx(found["wrong"], abs=1e-6)
    assert found["right"] == pytest.approx(found["resampled"], abs=1e-6)
    assert found["right"] > found["unrelated"] + 0.05


def test_a_projector_that_shows_the_descriptor_agrees_with_it_alone(monkeypatch):
    """It shows two numbers of what it is told, so all are cosines of independent draws with the second view's own."""
    found = planted(monkeypatch, lambda f, w: (w - w.mean(dim=0))[:, :2])
    assert all(abs(value) < 0.2 for value in found.values())  # two views are told independent things
    assert found["wrong"] == pytest.approx(found["unrelated"], abs=1e-6) != found["right"]
    assert len({round(found[name], 6) for name in ("right", "wrong", "resampled")}) == 3


def test_a_trained_run_is_read_in_eval_mode_and_by_its_own_keys():
    run = fit(TINY.replace(condition_on=("color", "crop")), progress=False)
    assert agreement(run, IMAGES) == agreement(run, IMAGES)
    assert agreement(run, IMAGES)["right"] > agreement(run, IMAGES)["unrelated"]


def test_what_cannot_be_compared_is_refused():
    run = fit(TINY, progress=False)
    with pytest.raises(InputError, match="two or more"):
        agreement(run, IMAGES[:1])
    with pytest.raises(InputError, match="cassle"):
        agreement(dataclasses.replace(run, spec=run.spec.replace(awareness="none")), IMAGES)
