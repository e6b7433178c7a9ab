"""Masks come back as trained; overlap knows equal, unrelated and opposite rows."""

import pytest
import torch

from mastlib.errors import InputError
from mastlib.evaluate.masks import read_masks
from mastlib.methods.masks import overlap
from mastlib.spec import RunSpec
from mastlib.training import fit

TINY = {
    "backbone": "resnet_small", "stem": "patch", "width": 4, "projector": (16, 16, 12), "image_size": 16, "images": 128,
    "batch_size": 32, "epochs": 1, "warmup_epochs": 0, "optimizer": "adamw", "lr": 1e-3,
}  # fmt: skip


def test_masks_of_a_run():
    masks = read_masks(fit(RunSpec(**TINY, awareness="mast", pairing="isolate_one", mask_init=0.9), progress=False))
    assert masks.shape == (5, 12) and 0.8 < masks.mean() < 1
    with pytest.raises(InputError, match="mast"):
        read_masks(fit(RunSpec(**TINY), progress=False))


def test_overlap_is_a_correlation_of_rows():
    a = torch.rand(1, 400, generator=torch.Generator().manual_seed(0))
    b = torch.rand(1, 400, generator=torch.Generator().manual_seed(1))
    result = overlap(torch.cat([a, 0.5 * a + 0.2, 1 - a, b]))
    torch.testing.assert_close(result, torch.corrcoef(torch.cat([a, a, 1 - a, b])), atol=1e-5, rtol=0)
