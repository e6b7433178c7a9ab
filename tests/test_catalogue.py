"""The catalogue is complete, its counts are those of a count by hand, and its costs are ratios to the host."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from mastlib import catalogue, cost
from mastlib.catalogue import IDEA, OURS, STATED
from mastlib.errors import InputError
from mastlib.methods import AWARENESS, HOSTS, REFUSED
from mastlib.spec import RunSpec
from mastlib.tiers import PUBLISHED_BY, published, tier_spec

ALLOWED = [(host, one) for host in HOSTS for one in AWARENESS if (host, one) not in REFUSED]
SHOWN = [
    *ALLOWED[: ALLOWED.index(("moco", "looc")) + 1],
    ("moco", "looc++"),
    *ALLOWED[ALLOWED.index(("moco", "looc")) + 1 :],
]


def test_every_host_and_every_awareness_is_described() -> None:
    hosts, aware = catalogue.hosts(256).set_index("host"), catalogue.awarenesses().set_index("awareness")
    assert list(hosts.index) == list(HOSTS) and set(PUBLISHED_BY) == set(HOSTS)
    assert list(aware.index) == list(AWARENESS)
    assert (hosts["loss"].str.len() > 20).all() and (aware["does"].str.len() > 20).all()
    assert (hosts.drop(index="supervised")["paper"].str.contains(r"\d{4}$")).all()
    assert (aware.drop(index="none")["paper"].str.contains(r"\d{4}$")).all()
    assert hosts.loc["moco", "parts"] == "projector, slow_backbone, slow_projector, queue"
    assert hosts.loc["swav", "parts"] == "projector, prototypes"
    assert hosts.loc["supervised", "parts"] == "classifier"
    assert hosts.loc["moco", "projector"] == "256-128"
    assert aware.loc["looc", "hosts"] == "moco"
    assert aware.loc["mast", "adds"] == "masks"
    assert "augself_tasks" in aware.loc["augself", "settings"]


def test_every_paper_is_in_the_references() -> None:
    known = re.findall(r"^@\w+\{(\S+),", (Path(__file__).parents[1] / "references.bib").read_text(), re.M)
    assert set(catalogue.CITED) == {*HOSTS, *AWARENESS}
    assert {key for keys in catalogue.CITED.values() for key in keys} <= set(known)


def test_every_pair_is_allowed_or_refused_with_a_sentence() -> None:
    frame = catalogue.pairs()
    assert len(frame) == len(HOSTS) * len(AWARENESS)
    refused = frame[~frame["allowed"]]
    assert set(zip(refused["host"], refused["awareness"], strict=True)) == set(REFUSED)
    assert (refused["why not"].str.len() > 20).all()
    assert (frame[frame["allowed"]]["why not"] == "").all()


@pytest.mark.parametrize("pair", ALLOWED, ids="+".join)
def test_an_allowed_pair_is_a_valid_spec(pair: tuple[str, str]) -> None:
    spec = catalogue.pair_spec("smoke", *pair, augmentations="standard5")
    assert (spec.host, spec.awareness) == pair


@pytest.mark.parametrize("pair", REFUSED, ids="+".join)
def test_a_refused_pair_says_why(pair: tuple[str, str]) -> None:
    with pytest.raises(InputError, match=re.escape(REFUSED[pair])):
        catalogue.pair_spec("smoke", *pair)


def test_a_variant_is_its_awareness_with_its_settings() -> None:
    spec, plain = (catalogue.pair_spec("smoke", "moco", one) for one in ("looc++", "looc"))
    assert spec == plain.replace(looc_stages=True)
    with pytest.raises(InputError, match=re.escape(REFUSED["byol", "looc"])):
        catalogue.pair_spec("smoke", "byol", "looc++")


def test_an_unknown_method_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match="host = 'mocko'"):
        catalogue.pair_spec("smoke", "mocko", "none")
    with pytest.raises(InputError, match="awareness = 'must'"):
        catalogue.pair_spec("smoke", "moco", "must")


def test_published_settings_are_those_of_the_paper_tier() -> None:
    for host in HOSTS:
        assert published(host) == tier_spec("paper", host=host)
    assert (published("vicreg").batch_size, published("vicreg").epochs) == (2048, 1000)
    assert published("byol").momentum == 0.996


def test_parameters_equal_a_count_by_hand() -> None:
    frame = catalogue.parameters("smoke", augmentations="standard5").set_index(["host", "awareness"])
    assert list(frame.index) == SHOWN
    d, p, k, q = 8 * 8, 128, 5, 512  # features, projector's width, augmentations, MoCo's queue
    linear_norm = lambda i, o: i * o + o + 2 * o  # noqa: E731  (weights and biases, batch-norm)
    expander = linear_norm(d, p) + linear_norm(p, p) + p * p
    mast = frame.loc["vicreg", "mast"]
    assert mast["projector"] == expander
    assert mast["aware"] == mast["added"] == k * p  # masks
    assert mast["dropped"] == expander + mast["aware"]
    assert mast["still"] == mast["queue"] == mast["heads"] == 0
    head = linear_norm(2 * d, 512) + linear_norm(512, 512)
    assert frame.loc[("simsiam", "augself"), "added"] == 2 * head + 2 * (512 * 4 + 4)  # crop, colour
    assert frame.loc[("simsiam", "none"), "heads"] == linear_norm(p, p // 4) + (p // 4) * p + p
    looc, moco = frame.loc["moco", "looc"], frame.loc["moco", "none"]
    assert looc["projector"] == (k + 1) * moco["projector"]
    assert looc["queue"] == (k + 1) * moco["queue"] == (k + 1) * q * 128
    assert moco["still"] == moco["backbone"] + moco["projector"]
    assert frame.drop(index=("moco", "looc++"))["backbone"].nunique() == 1
    plus, inner = frame.loc["moco", "looc++"], d // 4  # the last block: 1x1, 3x3, 1x1, a batch-norm after each
    stage = d * inner + 9 * inner * inner + inner * d + 2 * (inner + inner + d)
    assert plus["backbone"] == looc["backbone"] + k * stage
    assert plus["added"] == looc["added"] and plus["still"] == looc["still"] + k * stage


def test_every_switch_of_mast_is_listed_with_its_basis() -> None:
    frame = catalogue.mast_switches().set_index("switch")
    mine = {f.name for f in dataclasses.fields(RunSpec) if "mast" in f.metadata["only_with"].get("awareness", ())}
    assert set(frame.index) == mine | set(catalogue.SHARED_WITH_MAST)
    assert (frame[["meaning", "default", "accepted", "source"]] != "").all(axis=None)
    assert frame.loc["mask_power", "basis"] == OURS
    assert frame.loc["pairing", "basis"] == OURS
    assert frame.loc["uncertainty", "basis"] == IDEA
    assert frame.loc["full_weight", "counts with"] == "subspace_loss C"


def test_the_basis_follows_from_the_source() -> None:
    assert catalogue.basis("Huang et al. 2023, section 1.") == STATED
    assert catalogue.basis("Huang et al. 2023; forms: others.") == IDEA
    assert catalogue.basis("this book's reading of Huang et al. 2023.") == OURS
    assert catalogue.basis("after Veit et al. 2017.") == OURS


def test_costs_are_ratios_to_the_host_in_the_same_round(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Pretended:
        def __init__(self, spec: RunSpec, images: torch.Tensor) -> None:
            self.name, self.taken = spec.awareness, 0

        def __call__(self) -> float:
            order.append(self.name)
            self.taken += 1
            return self.taken * (3.0 if self.name == "augself" else 1.0)  # the machine slows, for both

    monkeypatch.setattr(cost, "Step", Pretended)
    specs = {one: catalogue.pair_spec("smoke", "simsiam", one) for one in ("none", "augself")}
    seconds = cost.step_seconds(specs, torch.empty(0), 3)
    assert order[:4] == ["none", "augself", "augself", "none"]
    assert [len(taken) for taken in seconds.values()] == [3, 3]
    assert cost.ratio(seconds, "augself", "none") == (3.0, 3.0, 3.0)
    with pytest.raises(InputError, match="rounds = 0"):
        cost.step_seconds(specs, torch.empty(0), 0)


@pytest.mark.slow
def test_a_step_of_every_pair_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "WARM_UP", 0)
    sizes = {"batch_size": 8, "images": 64, "precision": "fp32", "memory_format": "contiguous", "image_size": 16}
    frame = catalogue.cost("smoke", 1, augmentations="standard5", **sizes)
    assert list(zip(frame["host"], frame["awareness"], strict=True)) == SHOWN
    assert (frame["seconds"] > 0).all() and (frame[frame["awareness"] == "none"]["ratio"] == 1).all()
    assert dict(zip(frame["awareness"], frame["views"], strict=True))["looc"] == 7


def test_a_step_trains_the_method() -> None:
    spec = catalogue.pair_spec("smoke", "vicreg", "mast", precision="fp32", memory_format="contiguous", batch_size=16)
    step = cost.Step(spec.replace(compile="off"), torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8))
    before = step.method.aware.masks.raw.clone()  # type: ignore[union-attr]
    assert step() > 0
    assert not torch.equal(before, step.method.aware.masks.raw)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("preset", "targets"),
    [("standard5", ("crop", "color")), ("spatial", ("crop",)), ("appearance", ("color",))],
)
def test_augself_predicts_what_views_differ_in(preset: str, targets: tuple[str, ...]) -> None:
    spec = catalogue.pair_spec("smoke", "simsiam", "augself", augmentations=preset)
    assert spec.augself_tasks == targets and spec.augself_weights == (1.0,) * len(targets)
    assert catalogue.pair_spec("smoke", "simsiam", "augself", augmentations=preset, augself_tasks=["flip"],
                               augself_weights=[2.0]).augself_tasks == ("flip",)  # fmt: skip
