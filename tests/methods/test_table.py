"""Every host with every awareness: it trains, or it is refused with its reason."""

import pytest
import torch

from mastlib.augment.presets import get_pipeline
from mastlib.errors import InputError
from mastlib.methods import AWARENESS, HOSTS, REFUSED, build_method
from mastlib.spec import RunSpec
from mastlib.training import generator, make_views

SMALL = {
    "batch_size": 16,
    "images": 64,
    "epochs": 1,
    "warmup_epochs": 0,
    "image_size": 16,
    "augmentations": "standard5",
}
SMALL |= {"backbone": "resnet_small", "stem": "patch", "width": 4, "projector": (16, 16)}
OF_HOST = {
    "moco": {"queue": 64, "momentum": 0.9},
    "byol": {"momentum": 0.9},
    "swav": {"prototypes": 6, "freeze_prototypes": 0.0},
    "supervised": {"projector": ()},
}
PAIRS = [(host, awareness) for host in HOSTS for awareness in AWARENESS]


def settings(host, awareness):
    of_awareness = {
        "cassle": {"condition_depth": 2, "condition_width": 8},
        "looc": {"pairing": "leave_one_out"},
        "mast": {"pairing": "isolate_one"}
        | ({} if host == "vicreg" else {"subspace_loss": "D", "uncertainty": "softmax"}),
    }
    return {**SMALL, "host": host, "awareness": awareness, **OF_HOST.get(host, {}), **of_awareness.get(awareness, {})}


@pytest.mark.parametrize("host,awareness", [pair for pair in PAIRS if pair not in REFUSED])
def test_it_trains(host, awareness):
    """Six steps on one batch of views. MoCo's negatives are drawn at random: its queue is left as it was."""
    spec = RunSpec(**settings(host, awareness))
    pipeline = get_pipeline(spec.augmentations, spec.image_size)
    torch.manual_seed(0)
    method = build_method(spec, pipeline.names, 4)
    images = torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    views = make_views(spec, method, pipeline, images, generator(0))
    labels = torch.arange(16) % 4 if method.wants_labels else None
    queues = {name: rows.clone() for name, rows in method.state_dict().items() if name.endswith((".rows", ".next"))}
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    history = []
    for step in range(6):
        method.load_state_dict(queues, strict=False)
        parts = method(views, step, labels)
        assert all(value.ndim == 0 and torch.isfinite(value) for value in parts.values())
        optimizer.zero_grad()
        parts["loss"].backward()
        assert all(p.grad is not None for p in method.parameters() if p.requires_grad)
        optimizer.step()
        history.append(float(parts["loss"].detach()))
    assert history[-1] < history[0]
    assert {"loss", "embedding_std"} <= set(parts)


@pytest.mark.parametrize("host,awareness", list(REFUSED))
def test_it_is_refused_with_its_reason(host, awareness):
    with pytest.raises(InputError) as refusal:
        RunSpec(**settings(host, awareness))
    assert (
        str(refusal.value)
        == f"host = {host!r} with awareness = {awareness!r} cannot be used: {REFUSED[host, awareness]}"
    )


def test_what_is_refused_is_what_makes_no_sense():
    assert set(REFUSED) == (
        {("supervised", "cassle")}
        | {(host, "mast") for host in ("simsiam", "byol", "swav", "barlow", "supervised")}
        | {(host, "looc") for host in HOSTS if host != "moco"}
    )
