"""Every row of the table of losses, held against the library or the printed formula that it names, in value and gradient."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable

import lightly.loss
import pytest
import torch
from lightly.loss import BarlowTwinsLoss, NegativeCosineSimilarity, NTXentLoss, SwaVLoss, VICRegLoss
from pytorch_metric_learning import losses as pml
from pytorch_metric_learning.reducers import SumReducer
from torch import Tensor, nn
from torch.nn import functional

from mastlib import conventions, losses
from mastlib.catalogue import pair_spec
from mastlib.conventions import CONVENTIONS, PRINTED, Convention, Tensors, tensors
from mastlib.methods import build_method
from mastlib.methods.base import Encoded

T = 0.2
GIVEN = tensors(images=24, dim=10, queue=40, prototypes=7)
Loss = Callable[[Tensors], Tensor]


def bank(temperature: float) -> Loss:
    def loss(t: Tensors) -> Tensor:
        peer = NTXentLoss(temperature, memory_bank_size=tuple(t.queue.shape))
        peer.memory_bank.bank = functional.normalize(t.queue, dim=1)
        return peer(t.z1, t.z2.detach())

    return loss


def pairs(**settings: float) -> Loss:
    return lambda t: pml.SelfSupervisedLoss(pml.NTXentLoss(**settings))(t.z1, t.z2)


def summed(**settings: float) -> Loss:
    return lambda t: pml.SelfSupervisedLoss(pml.NTXentLoss(reducer=SumReducer(), **settings))(t.z1, t.z2)


def supervised(**settings: float) -> Loss:
    return lambda t: pml.SelfSupervisedLoss(pml.SupConLoss(**settings))(t.z1, t.z2)


def one_way(**settings: float) -> Loss:
    return lambda t: pml.SelfSupervisedLoss(pml.NTXentLoss(**settings), symmetric=False)(t.z1, t.z2)


def both_ways(t: Tensors) -> Tensor:
    peer = NegativeCosineSimilarity()
    return (peer(t.p1, t.z2.detach()) + peer(t.p2, t.z1.detach())) / 2


def printed_vicreg(lam: float, mu: float, nu: float) -> Loss:
    """Bardes et al. 2022, equations 1 to 6, with loops over images and dimensions."""

    def loss(t: Tensors) -> Tensor:
        n, d = t.z1.shape
        s = sum((a - b) @ (a - b) for a, b in zip(t.z1, t.z2, strict=True)) / n
        terms = []
        for z in (t.z1, t.z2):
            covariance = sum(torch.outer(row, row) for row in z - z.mean(dim=0)) / (n - 1)
            v = sum(torch.relu(1 - (covariance[j, j] + 1e-4).sqrt()) for j in range(d)) / d
            c = sum(covariance[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d
            terms.append((v, c))
        return lam * s + mu * (terms[0][0] + terms[1][0]) + nu * (terms[0][1] + terms[1][1])

    return loss


def printed_swav(t: Tensors) -> Tensor:
    """Caron et al. 2020, equation 2: the loss of view 1 by the assignment of view 2 and that of 2 by 1, the mean over images."""
    terms = []
    for own, other in ((t.scores1, t.scores2), (t.scores2, t.scores1)):
        q = lightly.loss.swav_loss.sinkhorn(other.detach(), 3, 0.05)
        p = functional.softmax(own / 0.1, dim=1)
        terms.append(-(q * p.log()).sum(dim=1).mean())
    return terms[0] + terms[1]


COSINE = "NegativeCosineSimilarity(), mean of both directions"
#: By name of the row: the library's loss as it comes, and with the row's setting.
PEERS: dict[str, tuple[Loss, Loss]] = {
    "NT-Xent, lightly, NTXentLoss()": (lambda t: NTXentLoss()(t.z1, t.z2), lambda t: NTXentLoss(T)(t.z1, t.z2)),
    "NT-Xent, pytorch-metric-learning, SelfSupervisedLoss(NTXentLoss())": (pairs(), pairs(temperature=T)),
    "NT-Xent, pytorch-metric-learning, SelfSupervisedLoss(NTXentLoss(reducer=SumReducer()))": (
        summed(), summed(temperature=T),
    ),
    "NT-Xent, pytorch-metric-learning, SelfSupervisedLoss(SupConLoss())": (supervised(), supervised(temperature=T)),
    "InfoNCE, lightly, NTXentLoss(memory_bank_size=(Q, D))": (bank(0.5), bank(T)),
    "InfoNCE, as a sensitivity, pytorch-metric-learning, SelfSupervisedLoss(NTXentLoss(), symmetric=False)": (
        one_way(), one_way(temperature=T),
    ),
    "negative cosine, lightly, NegativeCosineSimilarity()": (
        lambda t: NegativeCosineSimilarity()(t.p1, t.z2), lambda t: NegativeCosineSimilarity()(t.p1, t.z2.detach()),
    ),
    f"SimSiam, lightly, {COSINE}": (both_ways, both_ways),
    f"BYOL, lightly, {COSINE}": (both_ways, both_ways),
    "VICReg, lightly, VICRegLoss()": (
        lambda t: VICRegLoss()(t.z1, t.z2),
        lambda t: VICRegLoss(lambda_param=25.0, mu_param=25.0, nu_param=1.0)(t.z1, t.z2),
    ),
    "VICReg, pytorch-metric-learning, VICRegLoss()": (
        lambda t: pml.VICRegLoss()(t.z1, ref_emb=t.z2),
        lambda t: pml.VICRegLoss(invariance_lambda=25, variance_mu=25, covariance_v=1)(t.z1, ref_emb=t.z2),
    ),
    f"VICReg, {PRINTED}, equation 6": (
        printed_vicreg(25, 25, 1), lambda t: printed_vicreg(25 / t.z1.shape[1], 25 / 2, 1)(t),
    ),
    "Barlow Twins, lightly, BarlowTwinsLoss()": (
        lambda t: BarlowTwinsLoss()(t.z1, t.z2), lambda t: BarlowTwinsLoss(lambda_param=0.0051)(t.z1, t.z2),
    ),
    "SwAV, lightly, SwaVLoss()": (
        lambda t: SwaVLoss()([t.scores1, t.scores2], []),
        lambda t: SwaVLoss(temperature=0.1, sinkhorn_epsilon=0.05, sinkhorn_iterations=3)([t.scores1, t.scores2], []),
    ),
    f"SwAV, {PRINTED}, equation 2": (printed_swav, printed_swav),
}  # fmt: skip

EACH = pytest.mark.parametrize("row", CONVENTIONS, ids=lambda row: row.name)


def test_every_row_has_a_peer() -> None:
    assert [row.name for row in CONVENTIONS] == list(PEERS)


@EACH
@pytest.mark.parametrize("sizes", [(24, 10, 40, 7), (9, 33, 12, 20)])
def test_the_stated_factor_makes_the_values_equal(row: Convention, sizes: tuple[int, ...]) -> None:
    t = tensors(*sizes, seed=5)
    theirs = float(PEERS[row.name][1](t))
    assert row.scale(t) * theirs + row.shift == pytest.approx(float(row.value(t)), rel=1e-6, abs=1e-9)


@EACH
def test_their_value_as_it_comes_follows_from_ours(row: Convention) -> None:
    assert float(row.as_it_comes(GIVEN)) == pytest.approx(float(PEERS[row.name][0](GIVEN)), rel=1e-6)


@EACH
def test_the_gradients_are_as_far_apart_as_the_values(row: Convention) -> None:
    found = []
    for loss in (row.value, PEERS[row.name][1]):
        leaves = {f.name: getattr(GIVEN, f.name).clone().requires_grad_() for f in dataclasses.fields(GIVEN)}
        made = Tensors(**leaves)
        loss(made).sum().backward()
        found.append({name: leaf.grad for name, leaf in leaves.items()})
    ours, theirs = found
    some = False
    for name, gradient in ours.items():
        other = theirs[name]
        if gradient is None:  # no gradient reaches what is a target here
            assert other is None or not other.any(), name
        else:
            some = some or bool(gradient.any())
            torch.testing.assert_close(gradient, row.scale(GIVEN) * other, rtol=1e-5, atol=1e-9)
    assert some


@EACH
def test_the_words_say_the_factor(row: Convention) -> None:
    n = len(GIVEN.z1)
    said = {
        1.0: "ours = theirs",
        1 / (2 * n): "ours = theirs / (2N)",
        0.4: "ours = 2T theirs",
        0.5: "ours = theirs / 2",
    }
    if row.shift:
        assert (row.scale(GIVEN), row.shift, row.relation) == (4.0, 4.0, "ours = 4 + 4 theirs")
    else:
        assert row.relation.partition(" = 0.4")[0] == said[row.scale(GIVEN)]


def method_loss(host: str) -> float:
    """The host's own objective of GIVEN, its predictor replaced by what maps each embedding to its prediction."""

    class Predicted(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return GIVEN.p1 if z is GIVEN.z1 else GIVEN.p2

    method = build_method(pair_spec("smoke", host, "none"), ("crop", "flip", "color", "grayscale", "blur"))
    method.predictor = Predicted()
    encoded = Encoded([], [GIVEN.z1, GIVEN.z2], [], [GIVEN.z1, GIVEN.z2])
    return float(method.objective(encoded, None, 0)["loss"])


@pytest.mark.parametrize("loss,host", [("SimSiam", "simsiam"), ("BYOL", "byol")])
def test_our_value_is_the_method_s_own(loss: str, host: str) -> None:
    row = next(row for row in CONVENTIONS if row.loss == loss)
    assert float(row.value(GIVEN)) == pytest.approx(method_loss(host), rel=1e-12)


def test_our_values_are_those_of_our_defaults() -> None:
    rows = {row.loss: row for row in CONVENTIONS}
    z1, z2 = GIVEN.z1, GIVEN.z2
    assert float(rows["NT-Xent"].value(GIVEN)) == float(losses.nt_xent(z1, z2).mean())
    assert float(rows["InfoNCE"].value(GIVEN)) == float(losses.info_nce(z1, [z2], GIVEN.queue).mean())
    assert float(rows["Barlow Twins"].value(GIVEN)) == float(losses.barlow_twins(z1, z2)["loss"])


@pytest.mark.parametrize("peer", [NTXentLoss, VICRegLoss, BarlowTwinsLoss])
def test_lightly_compares_rows_of_one_process_unless_told(peer: type) -> None:
    assert inspect.signature(peer).parameters["gather_distributed"].default is False
    assert inspect.signature(SwaVLoss).parameters["sinkhorn_gather_distributed"].default is False


def test_the_table_is_of_the_rows() -> None:
    frame = conventions.compared(GIVEN)
    assert len(frame) == len(CONVENTIONS)
    assert (frame["ratio"] * frame["there"]).tolist() == pytest.approx(frame["here"].tolist())
    assert set(frame.loc[~frame["equal"], "loss"]) == {"NT-Xent", "InfoNCE, as a sensitivity", "BYOL", "SwAV"}
    for row, needed in zip(CONVENTIONS, frame["needed"], strict=True):
        assert needed == pytest.approx(float(PEERS[row.name][1](GIVEN)), rel=1e-6)


def test_temperatures_are_the_defaults() -> None:
    peers = [pml.NTXentLoss, pml.SupConLoss, losses.nt_xent, NTXentLoss]
    defaults = [inspect.signature(peer).parameters["temperature"].default for peer in peers]
    assert list(conventions.TEMPERATURES.values()) == defaults
    assert [name.rpartition(": ")[2] for name in conventions.TEMPERATURES] == [
        "NTXentLoss",
        "SupConLoss",
        "here",
        "NTXentLoss",
    ]


def test_by_temperature_tends_to_the_log_of_the_number_of_rows() -> None:
    frame = conventions.by_temperature(GIVEN, [0.1, 1e6])
    assert frame["nats"].iloc[0] == pytest.approx(float(NTXentLoss(0.1)(GIVEN.z1, GIVEN.z2)))
    assert frame["nats"].iloc[1] == pytest.approx(torch.log(torch.tensor(2.0 * 24 - 1)).item(), rel=1e-5)


def test_tensors_are_the_seed_s() -> None:
    again, other = tensors(24, 10, 40, 7), tensors(24, 10, 40, 7, seed=1)
    assert torch.equal(again.z1, GIVEN.z1) and not torch.equal(other.z1, GIVEN.z1)
    assert {f.name: tuple(getattr(again, f.name).shape) for f in dataclasses.fields(again)} == {
        "z1": (24, 10), "z2": (24, 10), "p1": (24, 10), "p2": (24, 10), "queue": (40, 10), "scores1": (24, 7), "scores2": (24, 7),
    }  # fmt: skip
