"""AugSelf (Lee, Lee, Lee, Lee, Shin; NeurIPS 2021): predict how two views were augmented differently."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mastlib.augment.algebra import differences
from mastlib.augment.pipeline import Views
from mastlib.errors import refuse
from mastlib.methods.base import Awareness, Encoded, Parts
from mastlib.models.heads import mlp
from mastlib.spec import RunSpec

WIDTHS = {"crop": 4, "color": 4, "flip": 1, "blur": 1, "rot90": 4, "solarize": 1}  # outputs of a task's head
HIDDEN = 512


class AugSelf(Awareness):
    """Adds sum over tasks a of lambda_a L_a(phi_a([f(v0), f(v1)]), difference of parameters) to the host's loss.

    One head phi_a `2d-512-512-p` per task in `spec.augself_tasks`, weights lambda_a in `spec.augself_weights`; both orders of
    the views. crop, color, blur, solarize: mean squared error of tanh(head); flip: binary cross-entropy with whether
    both or neither are flipped; rot90: cross-entropy of the quarter turns between the views. Targets: `algebra.differences`.
    The heads read the backbone's features without stop-gradient; of MoCo's, the second view's come from the slow copy.
    Source: section 3 and the authors' code. Raises InputError for a task that the pipeline has no augmentation for.
    """

    def __init__(self, spec: RunSpec, augmentations: Sequence[str], sizes: Sequence[int]) -> None:
        super().__init__(spec, augmentations, sizes)
        possible = [task for task in WIDTHS if task in augmentations]
        if not set(spec.augself_tasks) <= set(possible):
            raise refuse(
                "augself_tasks", list(spec.augself_tasks), f"augmentations of the views: {', '.join(possible)}"
            )
        self.weights = dict(zip(spec.augself_tasks, spec.augself_weights, strict=True))
        dim = sizes[0]
        self.heads = nn.ModuleDict(
            {task: mlp((2 * dim, HIDDEN, HIDDEN, WIDTHS[task]), "bias") for task in self.weights}
        )

    def added(self, encoded: Encoded, views: Views) -> Parts:
        first, second = encoded.features
        pairs = torch.cat([torch.cat([first, second], dim=1), torch.cat([second, first], dim=1)])  # (2N, 2d)
        targets = differences(views)
        return {
            f"augself_{task}": weight * task_loss(task, self.heads[task](pairs), both_orders(task, targets[task]))
            for task, weight in self.weights.items()
        }


def both_orders(task: str, target: Tensor) -> Tensor:
    """Targets of (view 0, view 1) and, under them, of (view 1, view 0): `(N, ...)` -> `(2N, ...)`."""
    if task == "flip":
        return torch.cat([target, target])
    return torch.cat([target, (4 - target) % 4 if task == "rot90" else -target])


def task_loss(task: str, output: Tensor, target: Tensor) -> Tensor:
    """The loss of one task: `output` `(2N, p)` of its head and `target` `(2N, p)`, or classes `(2N,)` for rot90."""
    if task == "rot90":
        return functional.cross_entropy(output, target)
    if task == "flip":
        return functional.binary_cross_entropy_with_logits(output, target)
    return functional.mse_loss(torch.tanh(output), target)
