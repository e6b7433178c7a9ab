"""What transfers: built alike everywhere, and other libraries' network too, with the same names and the same features."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

from mastlib.errors import InputError
from mastlib.evaluation.rows import load_backbone
from mastlib.models.backbones import build_backbone, normalise
from mastlib.runs import Run, RunStore
from mastlib.spec import RunSpec
from mastlib.training import fit
from mastlib.transfer import backbone_of, stages_of

TINY: dict[str, Any] = {
    "backbone": "resnet18", "stem": "standard", "host": "simclr", "projector": (16, 16), "image_size": 16, "images": 64,
    "batch_size": 32, "epochs": 1, "warmup_epochs": 0, "optimizer": "adamw", "lr": 1e-3, "precision": "fp32",
    "memory_format": "contiguous", "compile": "off",
}  # fmt: skip
LOOC = {**TINY, "host": "moco", "awareness": "looc", "pairing": "leave_one_out", "augmentations": "standard5"}
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def of_torchvision() -> nn.Module:
    net = torchvision.models.resnet18()
    net.fc = nn.Identity()
    return net


def of_timm() -> nn.Module:
    return timm.create_model("resnet18", num_classes=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fit(RunSpec(**TINY), progress=False, store=RunStore(tmp_path_factory.mktemp("runs")))


@pytest.mark.parametrize("peer", [of_torchvision, of_timm])
def test_a_run_of_the_standard_stem_loads_strictly_into_other_libraries(
    run: Run, peer: Callable[[], nn.Module]
) -> None:
    theirs = peer()
    theirs.load_state_dict(run.weights("backbone"), strict=True)
    images = normalise(torch.rand(4, 3, 64, 64))
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(images), load_backbone(run)(images))


@pytest.mark.parametrize("stem", ["standard", "small", "patch"])
@pytest.mark.parametrize("made", ["torchvision.models.resnet18()", 'timm.create_model("resnet18", num_classes=0)'])
def test_the_readme_s_lines_read_every_stem(made: str, stem: str, tmp_path: Path) -> None:
    ours = build_backbone("resnet18", stem=stem).eval()
    safetensors.torch.save_file(ours.state_dict(), tmp_path / "backbone.safetensors")
    block = re.search(r"```python\n(.*?)```", README, re.S)
    assert block and made in block[1]
    known: dict[str, Any] = {"timm": timm, "folder": tmp_path, "stem": stem, "images": torch.rand(2, 3, 32, 32)}
    exec(re.sub(r"^net = .*$", f"net = {made}", block[1], flags=re.M), known)
    torch.testing.assert_close(known["features"], ours(normalise(known["images"])))


@pytest.mark.parametrize("without", [(), ("blur", "color")])
def test_looc_has_one_stage_and_looc_plus_plus_one_more_than_augmentations(without: tuple[str, ...]) -> None:
    plain, plus = (RunSpec(**LOOC, without=without, looc_stages=own) for own in (False, True))
    assert (stages_of(plain), stages_of(plus)) == (1, 6 - len(without))
    with torch.device("meta"):
        assert (backbone_of(plain).dim, backbone_of(plus).dim) == (512, 512 * (6 - len(without)))


def test_an_augmentation_that_the_preset_lacks_is_refused() -> None:
    with pytest.raises(InputError, match="without"):
        backbone_of(RunSpec(**LOOC, without=("rotate",), looc_stages=True))
