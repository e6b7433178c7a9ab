"""How much frozen features tell of an image's colours: a lower bound of their mutual information."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mastlib.errors import InputError, check_int, refuse
from mastlib.evaluation.design import SPLITS
from mastlib.models.heads import mlp

BINS = 8  # of each channel
HIDDEN, DIM, TEMPERATURE, RATE = (512, 512), 128, 0.1, 1e-3
BATCH = 512  # images that are told apart
PATIENCE = 5  # epochs without a better validation estimate


@dataclass(frozen=True)
class InformationResult:
    """`nats`: the bound on test images; it cannot exceed `ceiling` = log N, of batches of N images; `n`: test images that
    fill such batches; `validation`: the estimate after each epoch; the critics of the best one were tested."""

    nats: float
    ceiling: float
    n: int
    validation: tuple[float, ...]


def colour_histograms(images: Tensor, bins: int = BINS) -> Tensor:
    """The square roots of the shares of an image's pixels in each of `bins`^3 boxes of RGB, `(N, bins ** 3)`.

    images `(N, 3, H, W)` uint8. The root makes the Euclidean distance of two histograms that of Hellinger. Raises InputError for
    images that are not uint8.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise refuse("images", f"{tuple(images.shape)} {images.dtype}", "(N, 3, H, W) torch.uint8")
    boxes = images.long() * bins // 256
    code = (boxes[:, 0] * bins + boxes[:, 1]) * bins + boxes[:, 2]
    counts = torch.zeros(len(images), bins**3).scatter_add_(1, code.flatten(1), torch.ones(code.flatten(1).shape))
    return (counts / code[0].numel()).sqrt()


def information(
    features: Tensor,
    colours: Tensor,
    split: np.ndarray,
    batch: int = BATCH,
    epochs: int = 60,
    seed: int = 0,
) -> InformationResult:
    """I(colours; features) >= log N - CE in nats, by two critics that learn to tell which colours belong to which features.

    s_ij = cos(g(c_i), h(z_j)) / T, with g and h networks of two hidden layers and T learned; CE is the cross-entropy of i = j
    within batches of N = `batch` images, of both directions. Fitted on "train", chosen among epochs by "val", read once on
    "test", in batches of the same N, which bounds what can be seen: a result near log N says "at least". features `(M, D)` and
    colours `(M, C)` are standardised by train. The same numbers for the same arguments on one machine.
    Raises InputError where a split has fewer than N images, and for lengths that differ.
    Source: AugSelf (Lee et al. 2021), figure on mutual information; the bound: van den Oord et al. 2018, Poole et al. 2019.
    """
    check_int("batch", batch, 2)
    check_int("epochs", epochs, 1)
    if not len(features) == len(colours) == len(split):
        raise InputError(
            f"features, colours and split have {len(features)}, {len(colours)} and {len(split)} rows; they must match"
        )
    sides = np.asarray(split, dtype=object)
    rows = {name: torch.from_numpy(np.flatnonzero(sides == name)) for name in SPLITS}
    for name in SPLITS:
        if len(rows[name]) < batch:
            raise refuse("batch", batch, f"at most {len(rows[name])}, the images of split {name}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _fitted(
            _standardised(features, rows["train"]), _standardised(colours, rows["train"]), rows, batch, epochs
        )


def _fitted(z: Tensor, c: Tensor, rows: dict[str, Tensor], batch: int, epochs: int) -> InformationResult:
    critics = Critics(z.shape[1], c.shape[1])
    optimizer = torch.optim.Adam(critics.parameters(), RATE)
    best, kept, curve = -math.inf, copy.deepcopy(critics.state_dict()), []
    for _ in range(epochs):
        critics.train()
        order = rows["train"][torch.randperm(len(rows["train"]))]
        for part in _full(order, batch):
            optimizer.zero_grad()
            critics(z[part], c[part]).backward()
            optimizer.step()
        curve.append(_bound(critics, z, c, rows["val"], batch))
        if curve[-1] > best:
            best, kept = curve[-1], copy.deepcopy(critics.state_dict())
        elif len(curve) - 1 - curve.index(best) >= PATIENCE:
            break
    critics.load_state_dict(kept)
    nats = _bound(critics, z, c, rows["test"], batch)
    return InformationResult(nats, math.log(batch), len(rows["test"]) // batch * batch, tuple(curve))


class Critics(nn.Module):
    """g and h, and the temperature: `forward` is the cross-entropy, in nats, of telling which rows belong together."""

    def __init__(self, features: int, colours: int) -> None:
        super().__init__()
        self.of_features, self.of_colours = (mlp((width, *HIDDEN, DIM), "bias") for width in (features, colours))
        self.log_scale = nn.Parameter(torch.tensor(-math.log(TEMPERATURE)))

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        """z `(N, D)`, c `(N, C)` -> `()`."""
        left, right = F.normalize(self.of_features(z), dim=1), F.normalize(self.of_colours(c), dim=1)
        scores = left @ right.T * self.log_scale.exp()
        truth = torch.arange(len(z))
        return (F.cross_entropy(scores, truth) + F.cross_entropy(scores.T, truth)) / 2


@torch.no_grad()
def _bound(critics: Critics, z: Tensor, c: Tensor, rows: Tensor, batch: int) -> float:
    """log N - CE, the mean over full batches of `rows` in an order that is always the same."""
    critics.eval()
    mixed = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]  # neighbours are alike
    losses = [float(critics(z[part], c[part])) for part in _full(mixed, batch)]
    return math.log(batch) - sum(losses) / len(losses)


def _full(order: Tensor, batch: int) -> tuple[Tensor, ...]:
    """The full batches of `order`."""
    return order[: len(order) // batch * batch].split(batch)


def _standardised(x: Tensor, train: Tensor) -> Tensor:
    """`x` centred and scaled by its rows `train`; a column without spread there is left out."""
    x = x.float()
    mean, spread = x[train].mean(0), x[train].std(0)
    keep = spread > 0
    if not keep.any():
        return torch.zeros(len(x), 1)
    return (x[:, keep] - mean[keep]) / spread[keep]
