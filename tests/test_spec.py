"""A spec is complete, typed and checked; its errors name the field, the value and what is accepted."""

import dataclasses
import json

import numpy as np
import pytest

from mastlib.augment.pipeline import PAIRINGS
from mastlib.augment.presets import list_presets
from mastlib.errors import InputError
from mastlib.methods import AWARENESS, HOSTS, REFUSED
from mastlib.methods.vicreg import VICReg
from mastlib.models.backbones import BACKBONES, STEMS
from mastlib.spec import RunSpec

FIELDS = {field.name: field for field in dataclasses.fields(RunSpec)}
WORDS = [None, 1, True, ["x"], "no such word"]
INTEGERS = [None, "3", 1.0, True, -1, 2**40, [1]]
NUMBERS = [None, "3", True, -1.0, float("nan"), float("inf"), 1e9, [1.0]]
LISTS = [None, "word", 3, {"a": 1}, [1.5], [True]]
BAD = {str: WORDS, int: INTEGERS, float: NUMBERS, tuple: LISTS, bool: [None, 0, 1, "yes", 1.0]}
GOOD = [("augself_weights", [1.5]), ("data", "no such word")]  # a folder of that name is looked for when it is used
MAST = {"awareness": "mast", "pairing": "isolate_one"}


@pytest.mark.parametrize(
    ("name", "value"),
    [(n, v) for n, f in FIELDS.items() for v in BAD[type(f.default)] if (n, v) not in GOOD],
)
def test_bad_values_are_refused_by_name(name, value):
    with pytest.raises(InputError) as refusal:
        RunSpec(**{name: value})
    message = str(refusal.value)
    assert message.startswith(name)
    assert "\n" not in message
    shown = value[0] if isinstance(value, list) and message.startswith(f"{name}[0]") else value
    assert f"= {shown!r} cannot be used; accepted: " in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images", 63), ("images", 10_000_001), ("image_size", 15), ("image_size", 513), ("badge", 0.51),
        ("width", 3), ("width", 257),
        ("epochs", 0), ("batch_size", 1), ("lr", 0), ("mask_init", 0.0), ("mask_init", 1.0), ("mask_power", 3),
        ("projector", [64]), ("projector", [0, 5]), ("without", [""]), ("seed", -1), ("seed", 2**32),
    ],
)  # fmt: skip
def test_bounds(name, value):
    with pytest.raises(InputError, match=f"^{name}.* cannot be used; accepted: "):
        RunSpec(**{name: value})


def test_every_field_says_what_it_is_what_it_takes_and_where_it_is_from():
    for name, field in FIELDS.items():
        for key in ("doc", "accepted", "source"):
            assert len(field.metadata[key]) > 2, (name, key)
        assert "Source" not in field.metadata["doc"]


def test_reference_text_is_the_words_of_the_error():
    for name, field in FIELDS.items():
        with pytest.raises(InputError) as refusal:
            RunSpec(**{name: None})
        assert str(refusal.value) == f"{name} = None cannot be used; accepted: {field.metadata['accepted']}"


def test_choices_are_those_of_the_modules_that_act_on_them():
    assert set(FIELDS["pairing"].metadata["accepted"].split(", ")) <= set(PAIRINGS)  # those that a method here can use
    expected = {"host": HOSTS, "awareness": AWARENESS, "backbone": BACKBONES, "stem": STEMS}
    for name, choices in (expected | {"augmentations": list_presets()}).items():
        assert set(FIELDS[name].metadata["accepted"].split(", ")) == set(choices)


def test_defaults_are_vicregs():
    """Bardes, Ponce, LeCun 2022, section 4.2."""
    spec = RunSpec()
    assert (spec.host, spec.awareness, spec.backbone) == ("vicreg", "none", "resnet50")
    assert VICReg.paper_sizes(2048) == (8192, 8192, 8192)
    assert (spec.invariance_weight, spec.variance_weight, spec.covariance_weight) == (25, 25, 1)
    assert (spec.optimizer, spec.lr, spec.weight_decay, spec.warmup_epochs) == ("lars", 0.2, 1e-6, 10)
    assert (spec.batch_size, spec.epochs) == (2048, 1000)


def test_values_are_kept_in_one_form():
    spec = RunSpec(projector=[64, np.int64(32)], without=["flip", "color", "flip"], lr=1, images=np.int32(4096))
    assert spec.projector == (64, 32)
    assert spec.without == ("color", "flip")
    assert type(spec.lr) is float
    assert type(spec.images) is type(spec.projector[1]) is int
    assert spec == RunSpec(projector=(64, 32), without=("color", "flip"), lr=1.0, images=4096)
    assert hash(spec) == hash(spec.replace())


def test_a_spec_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunSpec().seed = 1


def test_to_dict_is_json_and_comes_back():
    spec = RunSpec(**MAST, projector=(64, 64), without=("color",), mask_lr=10, lr=0.1 + 0.2, seed=3, precision="bf16")
    values = json.loads(json.dumps(spec.to_dict()))
    assert values == spec.to_dict()
    assert list(values) == list(FIELDS)
    assert RunSpec.from_dict(values) == spec


def test_unknown_names_are_refused_with_close_ones():
    with pytest.raises(InputError, match=r"unknown setting batchsize = 64; did you mean batch_size\?"):
        RunSpec.from_dict({"batchsize": 64})
    with pytest.raises(InputError, match=r"unknown setting zzz = 1; known: host, awareness"):
        RunSpec.from_dict({"zzz": 1})
    with pytest.raises(InputError, match="mask_pwr"):
        RunSpec().replace(mask_pwr=1)


def test_replace_changes_what_it_names_and_checks_it():
    assert RunSpec().replace(seed=5) == RunSpec(seed=5)
    with pytest.raises(InputError, match=r"^seed = 1\.0 "):
        RunSpec().replace(seed=1.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"mask_init": 0.9},
            "mask_init = 0.9 has no effect with awareness = 'none'; leave it at 0.5, or set awareness to",
        ),
        ({"uncertainty": "task"}, "uncertainty = 'task' has no effect with awareness = 'none'"),
        ({"subspace_loss": "A"}, "subspace_loss = 'A' has no effect"),
        ({"scale_fix": "none"}, "scale_fix = 'none' has no effect"),
        ({"mask_type": "ones"}, "mask_type = 'ones' has no effect"),
        ({**MAST, "mask_type": "ones", "mask_power": 2}, "mask_power = 2 has no effect with mask_type = 'ones'"),
        (
            {"badge": 0.2, "data": "a/folder"},
            "badge = 0.2 has no effect with data = 'a/folder'; leave it at 0.0, or set data to",
        ),
        ({"width": 64}, "width = 64 has no effect with backbone = 'resnet50'"),
        ({"crop_redrawn": 0.0}, "crop_redrawn = 0.0 has no effect with pairing = 'independent'"),
        ({"batch_size": 128, "images": 100}, "batch_size = 128 cannot be used; accepted: at most images = 100"),
        ({"epochs": 2, "warmup_epochs": 3}, "warmup_epochs = 3.0 cannot be used; accepted: at most epochs = 2"),
        (
            {"awareness": "mast"},
            "pairing = 'independent' cannot be used; accepted: plain, composed, isolate_one, isolate_each, mixed with",
        ),
        (
            {"pairing": "composed"},
            "pairing = 'composed' cannot be used; accepted: composed with awareness = 'mast' alone",
        ),
        ({"pairing": "isolate_each"}, "pairing = 'isolate_each' cannot be used; accepted: isolate_each with awareness"),
        (
            {**MAST, "pairing": "plain", "mask_choice": "loss"},
            "mask_choice = 'loss' has no effect with pairing = 'plain'",
        ),
        (
            {**MAST, "host": "moco", "pairing": "isolate_each", "subspace_loss": "D", "uncertainty": "none"},
            "pairing = 'isolate_each' cannot be used; accepted: two views of an image with subspace_loss = 'D'",
        ),
        ({"awareness": "looc", "host": "moco"}, "pairing = 'independent' cannot be used; accepted: leave_one_out with"),
        (
            {"pairing": "leave_one_out"},
            "pairing = 'leave_one_out' cannot be used; accepted: leave_one_out with awareness",
        ),
        (
            {**MAST, "subspace_loss": "D"},
            "subspace_loss = 'D' cannot be used; accepted: A, B or C with host = 'vicreg'",
        ),
        ({**MAST, "host": "moco"}, "subspace_loss = 'B' cannot be used"),
        (
            {**MAST, "crop_redrawn": 1.0},
            "crop_redrawn = 1.0 cannot be used; accepted: below 1 with mask_choice = 'contrast'",
        ),
        (
            {**MAST, "subspace_loss": "A", "outside_std": 0.9},
            "outside_std = 0.9 has no effect with subspace_loss = 'A'",
        ),
        (
            {**MAST, "host": "moco", "subspace_loss": "D", "uncertainty": "reweight"},
            "uncertainty = 'reweight' cannot be used; accepted: none or",
        ),
        ({"temperature": 0.5}, "temperature = 0.5 has no effect with host = 'vicreg'"),
        ({"awareness": "augself", "augself_tasks": ["crop"]}, "a number for each of augself_tasks = ('crop',)"),
        ({"host": "supervised", "projector": [8, 8]}, "projector = (8, 8) has no effect with host = 'supervised'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, words):
    with pytest.raises(InputError) as refusal:
        RunSpec(**changes)
    assert words in str(refusal.value)


@pytest.mark.parametrize(("host", "awareness"), REFUSED)
def test_pairs_that_make_no_sense_are_refused_with_the_reason(host, awareness):
    with pytest.raises(InputError) as refusal:
        RunSpec(host=host, awareness=awareness)
    message = str(refusal.value)
    assert (
        message.startswith(f"host = {host!r} with awareness = {awareness!r} cannot be used: ") and "\n" not in message
    )
    assert REFUSED[host, awareness] in message


def test_settings_that_go_together_are_taken():
    RunSpec(**MAST, mask_init=0.9, mask_power=2, uncertainty="none", crop_redrawn=0.0)
    RunSpec(**MAST, mask_choice="loss", crop_redrawn=1)
    RunSpec(awareness="mast", pairing="plain")
    RunSpec(backbone="resnet_small", width=64, images=64, batch_size=64, epochs=1, warmup_epochs=1)
    RunSpec(pairing="isolate_one", crop_redrawn=0.0)


def test_data_is_a_name_or_a_path_which_is_not_looked_at(tmp_path):
    assert RunSpec(data=tmp_path / "none") == RunSpec(data=str(tmp_path / "none"))
    assert RunSpec(data="none").of_folder and not RunSpec().of_folder
    for wrong in ("", b"openemoji", ["openemoji"]):
        with pytest.raises(InputError) as refusal:
            RunSpec(data=wrong)
        assert str(refusal.value) == f"data = {wrong!r} cannot be used; accepted: openemoji, or a folder of images"
