"""`diff` of whole models on the command line: its status, what it tells people, and what it tells programs."""

import json

import jsonschema
import numpy as np
import pytest

from adapterhub import documents
from adapterhub.operations.checkpoint.difference import percent
from tests.operations.checkpoint_files import UNET, averages, saved, weights

BASE = weights("sd1") | {f"{UNET}out.2.weight": np.ones((2, 2, 2, 2), "f4"), f"{UNET}out.2.bias": np.zeros(2, "f4")}


@pytest.fixture
def base(tmp_path):
    return saved(tmp_path / "base.safetensors", BASE)


@pytest.fixture
def tuned(tmp_path):
    """The base with one number of sixteen ones at 1.5, and moving averages beside it."""
    weight = BASE[f"{UNET}out.2.weight"].copy()
    weight[0, 0, 0, 0] = 1.5
    tensors = BASE | {f"{UNET}out.2.weight": weight}
    return saved(tmp_path / "tuned.safetensors", tensors | averages(tensors))


def test_the_same_model_is_status_0(cli, base):
    done = cli("diff", base, base)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == [
        "the same: 614 modules compared, max error 0",
        "  The text encoder is the same.",
        "  The VAE is the same.",
        "  The UNet is the same.",
    ]


def test_another_model_is_status_1_and_told_by_block_and_module(cli, base, tuned):
    done = cli("diff", base, tuned)
    assert (done.status, done.err) == (1, "")
    assert done.out.splitlines() == [
        "different: 614 modules compared, max error 0.5",
        "  The text encoder is the same.",
        "  The VAE is the same.",
        f"  The UNet was trained: 1 of 686 tensors changed, by {share(done.out)} %.",
        f"  not compared, beside the weights of {tuned}: ema 688",
        "component  block     tensors  identical  recast  changed  relative  largest",
        "unet       conv_out  2        1          0       1        0.125     0.125",
        "module         max  relative",
        "unet.conv_out  0.5  0.5",
    ]


def share(told):
    """The change of the whole UNet, which is 1/2 over the length of all of its numbers."""
    length = np.sqrt(sum(float((tensor.astype("f8") ** 2).sum()) for name, tensor in BASE.items() if UNET in name))
    return f"{50 / length:.3g}"


def test_what_one_model_lacks_is_not_listed_without_end(cli, base, tmp_path):
    part = saved(tmp_path / "part.safetensors", {name: held for name, held in BASE.items() if UNET in name})
    lines = cli("diff", base, part).out.splitlines()
    assert sum(line.startswith(f"only in {base}: ") for line in lines) == 20
    assert lines[-1] == f"... and {99 + 124 - 20} more"
    assert "  The VAE is only in the first." in lines


def test_programs_get_every_block(cli, base, tuned):
    done = cli("diff", tuned, base, "--json")
    found = json.loads(done.out)
    jsonschema.validate(found, json.loads(documents.schema("difference")))
    assert (done.status, found["equal"], found["extras_in_a"], found["extras_in_b"]) == (1, False, {"ema": 688}, {})
    assert {part["name"]: len(part["blocks"]) for part in found["components"]} == {
        "text_encoder": 14, "vae": 18, "unet": 13
    }  # fmt: skip


def test_a_model_and_an_adapter_are_not_compared(cli, base, style):
    done = cli("diff", base, style)
    assert (done.status, done.out) == (3, "")
    assert "a LoRA, and not a checkpoint" in done.err


def test_whole_models_are_compared_without_a_base(cli, base):
    done = cli("diff", base, base, "--base", base)
    assert (done.status, done.out) == (2, "")
    assert done.err.endswith("Leave out --base.\n")


def test_whether_a_model_descends_is_told_to_programs(cli, base, tuned):
    done = cli("validate", tuned, "--base", base, "--json")
    found = json.loads(done.out)
    found = found[0] if isinstance(found, list) else found
    jsonschema.validate(found, json.loads(documents.schema("validation")))
    assert (done.status, found["descent"]["verdict"], found["descent"]["equal"]) == (0, "descends", 1129 / 1130)


@pytest.mark.parametrize(
    ("share", "told"),
    [(0.0, "0 %"), (0.0259, "2.59 %"), (0.9991, "99.9 %"), (0.9997, "more than 99.9 %"), (1.0, "100 %"), (9.996, "1,000 %"),
     (12.345, "1,234 %"), (np.inf, "more than can be told")],
)  # fmt: skip
def test_shares_are_told_in_plain_numbers(share, told):
    assert percent(share) == told
