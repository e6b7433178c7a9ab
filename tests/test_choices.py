"""The tables of choices are complete, speak of what exists, and the choices that can be computed are as they say."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mastlib import choices, losses
from mastlib.augment.presets import get_pipeline
from mastlib.catalogue import IDEA, OURS, STATED, mast_switches
from mastlib.choices import BOTH, CODE, DEPARTURES, OWN, PAPER, SERVES, STATEMENTS
from mastlib.methods import build_method
from mastlib.spec import RunSpec
from mastlib.tiers import published, tier_spec


def test_every_switch_of_mast_serves_a_statement_of_its_paper() -> None:
    frame = choices.switches()
    assert frame["switch"].tolist() == mast_switches()["switch"].tolist() and set(frame["switch"]) == set(SERVES)
    assert {name for served in SERVES.values() for name in served} <= set(STATEMENTS)
    assert frame.set_index("switch").loc["pairing", "serves"] == "invariance, cheap"
    assert set(frame["basis"]) <= {STATED, IDEA, OURS}


def test_every_statement_but_the_transfer_is_served_by_settings() -> None:
    frame = choices.statements().set_index("statement")
    assert list(frame.index) == list(STATEMENTS)
    unserved = frame[(frame["switches"] == "") & (frame["host settings"] == "")]
    assert list(unserved.index) == ["transfer"]  # no setting: what a run hands to tasks holds no mask, see below
    known = {field.name for field in dataclasses.fields(RunSpec)}
    assert {name for one in STATEMENTS.values() for name in one.host_settings} <= known
    assert "mask_type" in frame.loc["overlap", "switches"]


def test_masks_are_no_part_of_what_transfers() -> None:
    spec = tier_spec("smoke", awareness="mast", pairing="isolate_one")
    method = build_method(spec, get_pipeline(spec.augmentations, spec.image_size).names)
    masks = [name for name, _ in method.named_parameters() if "masks" in name]
    assert masks and not any(name.startswith("backbone.") for name in masks)


@pytest.mark.parametrize("row", DEPARTURES, ids=lambda row: f"{row.method}: {row.subject}")
def test_every_departure_is_at_an_object_of_the_package(row: choices.Departure) -> None:
    assert callable(choices.found(row.at))
    assert row.follows in (PAPER, CODE, BOTH, OWN)
    assert all(getattr(row, f.name) for f in dataclasses.fields(row))
    assert row.here not in (row.paper, row.code) or row.follows != OWN


def test_departures_are_each_listed_once() -> None:
    keys = [(row.method, row.subject) for row in DEPARTURES]
    assert len(set(keys)) == len(keys)
    assert len(choices.departures()) == len(keys)


def test_what_is_done_here_is_done() -> None:
    """The rows whose choice is a number or a setting."""
    z = torch.tensor([[1.0, 2.0], [3.0, 5.0]], dtype=torch.float64)
    assert float(losses.invariance(z, torch.zeros_like(z))) == pytest.approx((1 + 4 + 9 + 25) / 4)  # not / 2
    spec = RunSpec()
    assert "flip" not in spec.condition_on and (spec.condition_depth, spec.condition_width) == (6, 64)
    assert (spec.invariance_weight, spec.variance_weight, spec.covariance_weight) == (25, 25, 1)
    assert "solarize" not in get_pipeline("vicreg", 32).names
    byol = choices.found("methods.byol.BYOL")
    assert byol.paper_sizes(512)[0] == 4096 and published("byol").projector == ()
    assert choices.found("methods.simsiam.SimSiam").last == "norm"
