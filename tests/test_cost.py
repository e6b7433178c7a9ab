"""Costs are counted as by hand, are the same every time, and are measured once on a machine."""

from __future__ import annotations

import pytest
import torch

from mastlib import cost
from mastlib.catalogue import count_parameters, pair_spec
from mastlib.errors import InputError
from mastlib.methods import build_method

SMALL = {
    "width": 4,
    "images": 64,
    "batch_size": 16,
    "image_size": 16,
    "precision": "fp32",
    "memory_format": "contiguous",
}
PLAIN = {"augmentations": "standard5", "compile": "off", **SMALL}
FLOATS, MB = 250_000, 1_000_000  # a megabyte of them


def test_the_peak_is_of_what_was_there_at_once():
    def work():
        kept = torch.zeros(10 * FLOATS)
        gone = torch.zeros(5 * FLOATS)
        del gone
        for _ in range(3):
            gone = torch.zeros(7 * FLOATS)
            del gone
        return kept

    before = torch.zeros(50 * FLOATS)  # was there already
    assert cost.peak_bytes(work) == 17 * MB
    assert cost.peak_bytes(lambda: before.zero_()) == 0
    assert cost.peak_bytes(lambda: before[: 4 * FLOATS].neg().exp()) == 8 * MB, "one is there while the next is made"


def test_a_steps_memory_holds_weights_gradients_and_both_moments_and_grows_with_images():
    spec = pair_spec("smoke", "vicreg", "none", **{**PLAIN, "projector": [512, 512, 512]})
    images = cost._noise(spec)
    weights = 4 * cost.trained_parameters(spec, images)
    one, two = (cost.step_bytes(spec, images[:n]) for n in (8, 16))
    assert 4 * weights < one < two < 4 * weights + 2.2 * (one - 4 * weights)
    assert cost.step_bytes(spec, images) == two, "the same every time"
    plain = pair_spec("smoke", "vicreg", "none", **{**PLAIN, "projector": [512, 512, 512], "optimizer": "sgd"})
    assert two - cost.step_bytes(plain, images) == pytest.approx(weights, rel=0.3), "SGD has one moment, AdamW two"


@pytest.mark.parametrize(("host", "awareness"), [("vicreg", "mast"), ("moco", "looc"), ("simsiam", "augself")])
def test_parameters_are_all_that_are_trained_whether_or_not_they_are_dropped(host, awareness):
    spec = pair_spec("smoke", host, awareness, **PLAIN)
    names = ("crop", "flip", "color", "grayscale", "blur")
    count = count_parameters(build_method(spec, names, 2))
    assert cost.trained_parameters(spec, cost._noise(spec)) == count["backbone"] + count["dropped"]


def test_a_comparison_has_each_measure_of_each_pair_with_its_bounds():
    specs = {
        "host": pair_spec("smoke", "vicreg", "none", **PLAIN), "mast": pair_spec("smoke", "vicreg", "mast", **PLAIN)
    }  # fmt: skip
    found = cost.compare(specs, {"masks": ("mast", "host"), "same": ("host", "host")}, 2, 1).set_index(
        ["arm", "measure"]
    )
    assert list(found.index) == [(a, m) for a in ("masks", "same") for m in ("seconds", "memory", "parameters")]
    assert (found["low"] <= found["value"]).all() and (found["value"] <= found["high"]).all()
    assert (found["over"] == "host").all() and (found["amount"] > 0).all()
    host = found.loc[("masks", "parameters"), "amount_over"]
    assert found.loc[("masks", "parameters"), "value"] == (host + 5 * 128) / host, "a mask of 128 for each augmentation"
    assert found.loc[("masks", "memory"), "value"] > 1
    for measure in ("memory", "parameters"):
        assert found.loc[("same", measure), ["value", "low", "high"]].eq(1).all()


def test_a_round_is_the_mean_of_its_steps_which_take_turns(monkeypatch):
    order = []

    class Pretended:
        def __init__(self, spec, images):
            self.name, self.taken = spec.host, 0

        def __call__(self):
            order.append(self.name)
            self.taken += 1
            return float(self.taken)

    monkeypatch.setattr(cost, "Step", Pretended)
    specs = {host: pair_spec("smoke", host, "none") for host in ("moco", "byol")}
    found = cost.step_seconds(specs, torch.empty(0), 2, 3)
    assert found == dict.fromkeys(specs, pytest.approx([8.0, 11.0])), "after two rounds of warm-up"
    assert order == ["moco", "byol", "byol", "moco"] * 6
    with pytest.raises(InputError, match="steps = 0"):
        cost.step_seconds(specs, torch.empty(0), 1, 0)


def test_costs_are_measured_once_on_a_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("MASTLIB_OUTPUTS", str(tmp_path))
    spec, pairs, made = pair_spec("smoke", "vicreg", "none", **PLAIN), {"same": ("host", "host")}, []
    compare = cost.compare
    monkeypatch.setattr(cost, "compare", lambda *given: made.append(given) or compare(*given))
    first = cost.costs({"host": spec}, pairs, 1, 1)
    assert cost.costs({"host": spec}, pairs, 1, 1).equals(first) and len(made) == 1
    cost.costs({"host": spec.replace(seed=1)}, pairs, 1, 1)
    monkeypatch.setattr(cost, "machine", lambda: ["another", 64, 32, "9.9"])
    cost.costs({"host": spec}, pairs, 1, 1)
    assert len(made) == 3
