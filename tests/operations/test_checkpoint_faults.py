"""What `inspect` tells of whole models, and everything that can be wrong with one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import adapterhub
from adapterhub import architectures
from adapterhub.errors import BrokenAdapter
from tests.operations.checkpoint_files import (
    CONV_IN,
    FOREIGN,
    MARKERS,
    UNET,
    averages,
    drops,
    empty,
    positions,
    saved,
    schedule,
    unused_text,
    weights,
)
from tests.operations.merge_files import lora

VAE = "first_stage_model."
TINY = ("warning", "other-widths")


def found(path: Path):
    return [(problem.severity, problem.code, problem.where) for problem in adapterhub.inspect(path).problems]


def test_inspect_counts_parts_and_what_stands_beside_them(tmp_path):
    tensors = {place: tensor.astype("f2") if place.startswith(VAE) else tensor for place, tensor in weights("sd2").items()}  # fmt: skip
    beside = {**averages(tensors), **schedule(), **positions("sd2"), **unused_text("sd2"), **MARKERS, **FOREIGN}
    beside["model.control.loss.weight"] = np.ones(1, "f4")
    told = adapterhub.inspect(saved(tmp_path / "model.safetensors", {**tensors, **beside}))
    assert (told.kind, told.layout, told.architecture) == ("checkpoint", "single-file", "sd2")
    # modules: SD 2 has 391 in its UNet (686 tensors), 124 in its VAE (248), 2 + 23 * 8 + 1 in its text encoder (372)
    assert told.components == {"unet": 391, "vae": 124, "text_encoder": 187}
    parts = {name: (part.tensors, part.dtypes) for name, part in told.parts.items()}
    assert parts == {
        "unet": (686, {"F32": 686}), "vae": (248, {"F16": 248}), "text_encoder": (372, {"F32": 372}),
    }  # fmt: skip
    assert told.extras == {
        "ema": 688, "schedule": 14, "position-ids": 1, "unused-text": 14, "marker": 2, "training": 1, "foreign": 2,
    }  # fmt: skip


def test_what_an_optimizer_leaves_in_a_ckpt_is_told_and_not_read(tmp_path):
    state = {name: torch.from_numpy(tensor) for name, tensor in weights("sd1").items()}
    optimizer = [{"state": {0: {"exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}}, "param_groups": []}]
    torch.save({"state_dict": state, "optimizer_states": optimizer, "epoch": 3}, tmp_path / "last.ckpt")
    told = adapterhub.inspect(tmp_path / "last.ckpt")
    done = adapterhub.convert(tmp_path / "last.ckpt", tmp_path / "out.safetensors", to="single-file")
    for problems in (told.problems, done.problems):
        assert ("left-out", "2 tensors stand beside it and are not read") in [(p.code, p.message) for p in problems]
    assert (told.container, told.architecture, told.tensors) == ("torch-zip", "sd1", 1130)
    assert (told.extras, told.extra_bytes) == ({"optimizer": 2}, {"optimizer": 16})


@pytest.mark.parametrize("name", ["ema", "ema_state_dict", "state_dict_ema"])
def test_averages_beside_the_weights_are_counted_as_such(name, tmp_path):
    state = {name: torch.from_numpy(tensor) for name, tensor in weights("sd1").items()}
    torch.save({"state_dict": state, name: {"a": torch.ones(3)}}, tmp_path / "last.ckpt")
    assert adapterhub.inspect(tmp_path / "last.ckpt").extras == {"ema": 1}


def test_a_step_that_is_a_tensor_beside_the_weights_hides_no_model(tmp_path):
    state = {name: torch.from_numpy(tensor) for name, tensor in weights("sd1").items()}
    torch.save({"state_dict": state, "global_step": torch.tensor(5)}, tmp_path / "last.ckpt")
    told = adapterhub.inspect(tmp_path / "last.ckpt")
    assert (told.architecture, told.tensors, told.extras) == ("sd1", 1130, {"training": 1})


@pytest.mark.parametrize("name", ["model", "module", "model_state_dict"])
def test_a_lora_in_what_a_trainer_calls_its_model_is_a_lora(name, tmp_path):
    state = {key: torch.from_numpy(tensor) for key, tensor in load_file(lora(tmp_path / "a.safetensors")).items()}
    torch.save({name: state, "optimizer": {"state": {0: torch.ones(2)}}}, tmp_path / "last.pt")
    told, plain = adapterhub.inspect(tmp_path / "last.pt"), adapterhub.inspect(tmp_path / "a.safetensors")
    assert (told.kind, told.layout, told.architecture, told.algorithms) == (plain.kind, plain.layout, plain.architecture, plain.algorithms)  # fmt: skip
    assert adapterhub.diff(tmp_path / "last.pt", tmp_path / "a.safetensors").equal
    assert not [problem for problem in told.problems if problem.severity == "error"]


@pytest.mark.parametrize("name", ["model", "module", "model_state_dict"])
def test_what_stands_beside_a_model_is_counted_whatever_its_wrapper_is_called(name, tmp_path):
    state = {name: torch.from_numpy(tensor) for name, tensor in weights("sd1").items()}
    torch.save({name: {name: state, "optimizer": [torch.ones(2)]}, "optimizer": [torch.ones(2)]}, tmp_path / "a.ckpt")
    told = adapterhub.inspect(tmp_path / "a.ckpt")
    assert (told.architecture, told.tensors, told.extras) == ("sd1", 1130, {"optimizer": 2})


@pytest.mark.parametrize("asked", [{"to": "single-file"}, {"to": "diffusers"}, {"prune": True}], ids=str)
def test_every_tensor_of_an_optimizer_stands_in_the_ledger(asked, tmp_path):
    state = {name: torch.from_numpy(tensor) for name, tensor in weights("sd1").items()}
    optimizer = [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}]
    torch.save({"state_dict": {"state_dict": state, "optimizer": optimizer}, "optimizer_states": optimizer}, tmp_path / "last.ckpt")  # fmt: skip
    done = adapterhub.convert(tmp_path / "last.ckpt", tmp_path / "out", **asked)
    why = "it stands beside the weights, where no program looks for any"
    assert drops(done) == dict.fromkeys(["optimizer_states.0.state.0.exp_avg", "state_dict.optimizer.0.state.0.exp_avg"], why)  # fmt: skip
    assert (done.exactness, done.summary["drop"]) == ("bit-exact", 2)
    assert adapterhub.inspect(tmp_path / "last.ckpt").extras == {"optimizer": 2}


@pytest.mark.parametrize(("channels", "variant"), [(4, None), (9, "inpainting"), (8, "instruct-pix2pix")])
@pytest.mark.parametrize("name", architectures.NAMES)
def test_the_channels_of_the_input_tell_the_variant(name, channels, variant, tmp_path):
    path = saved(tmp_path / "model.safetensors", weights(name, "f2", channels))
    assert (adapterhub.inspect(path).architecture, adapterhub.inspect(path).variant) == (name, variant)
    adapterhub.convert(path, tmp_path / "out", to="diffusers")
    assert adapterhub.inspect(tmp_path / "out").variant == variant
    assert json.loads((tmp_path / "out/unet/config.json").read_text())["in_channels"] == channels


def test_a_marker_tells_that_the_model_predicts_velocity(tmp_path):
    path = saved(tmp_path / "model.safetensors", {**weights("sdxl", "f2"), **MARKERS})
    assert adapterhub.inspect(path).variant == "v-prediction"


@pytest.mark.parametrize(
    ("name", "channels"), [*((name, 4) for name in architectures.NAMES), ("sd1", 9), ("sd2", 8), ("sdxl", 9)]
)
def test_a_sound_model_at_full_size_has_no_problems(name, channels, tmp_path):
    shapes = full(name)
    shapes[CONV_IN] = (shapes[CONV_IN][0], channels, 3, 3)
    told = adapterhub.inspect(empty(tmp_path / "model.safetensors", shapes))
    assert (told.architecture, told.problems) == (name, [])


def full(name: str) -> dict[str, tuple[int, ...]]:
    """The shapes of a whole model."""
    model = architectures.get(name)
    known = {f"{component}.{path}.{kind}": shape for component in model.weights
             for path, kind, shape in model.tensors(component)}  # fmt: skip
    shapes = {}
    for row in model.single_file():
        shape = known[row.tensors[0]]
        ones = (1, 1) if row.crossing == "reshaped" else ()
        turned = shape[::-1] if row.crossing == "transposed" else shape
        shapes[row.place] = (turned[0] * len(row.tensors), *turned[1:], *ones)
    return shapes


def test_a_weight_of_another_shape_is_an_error_and_the_model_is_refused(tmp_path):
    shapes = full("sd1")
    shapes[f"{UNET}middle_block.1.proj_in.weight"] = (1280, 1280, 3, 3)
    shapes[f"{UNET}out.2.bias"] = (5,)
    path = empty(tmp_path / "model.safetensors", shapes)
    assert found(path) == [
        ("error", "shape-mismatch", "unet.mid_block.attentions.0.proj_in"),
        ("error", "shape-mismatch", "unet.conv_out"),
    ]
    with pytest.raises(
        BrokenAdapter, match=r"\[1280, 1280, 3, 3\], where Stable Diffusion 1.x has \[1280, 1280, 1, 1\]"
    ):
        adapterhub.convert(path, tmp_path / "out", to="diffusers")
    assert not (tmp_path / "out").exists()


def test_a_model_of_other_widths_is_taken_for_a_small_one_whatever_stands_beside_it(tmp_path):
    tensors = weights("sd1")
    beside = {**averages(tensors), **averages(tensors, UNET), **schedule()}  # more than there are weights
    codes = [(severity, code) for severity, code, _ in found(saved(tmp_path / "m.safetensors", {**tensors, **beside}))]
    assert codes == [TINY, ("warning", "leftovers")]


@pytest.mark.parametrize("kernel", [(3, 3), (1, 2), (0, 0)], ids=str)
def test_a_convolution_that_is_no_linear_layer_is_an_error_and_the_model_is_refused(kernel, tmp_path):
    place = f"{VAE}encoder.mid.attn_1.q.weight"
    path = saved(tmp_path / "model.safetensors", {**weights("sd1"), place: np.zeros((2, 2, *kernel), "f4")})
    assert found(path) == [(*TINY, ""), ("error", "missing-weights", "vae"), ("warning", "foreign-keys", place)]
    assert not adapterhub.validate(path).valid
    assert adapterhub.diff(path, path).equal
    with pytest.raises(BrokenAdapter, match=r"missing: encoder\.mid_block\.attentions\.0\.to_q"):
        adapterhub.convert(path, tmp_path / "out", to="diffusers")


def test_weights_that_are_missing_are_named_by_component(tmp_path):
    tensors = weights("sd1")
    for place in (f"{UNET}out.0.weight", f"{UNET}out.0.bias", f"{VAE}quant_conv.bias"):
        del tensors[place]
    path = saved(tmp_path / "model.safetensors", tensors)
    problems = {problem.where: problem.message for problem in adapterhub.inspect(path).problems if problem.code == "missing-weights"}  # fmt: skip
    assert problems == {
        "unet": "2 of 686 tensors are missing: conv_norm_out …",
        "vae": "1 of 248 tensors are missing: quant_conv …",
    }
    with pytest.raises(BrokenAdapter, match="tensors are missing"):
        adapterhub.convert(path, tmp_path / "out", to="diffusers")
    assert not (tmp_path / "out").exists()


BESIDE = {
    "foreign-keys": (FOREIGN, next(iter(FOREIGN))),
    "leftovers": ({"model_ema.decay": np.ones(1, "f4")}, ""),
    "position-ids": (positions("sd1", "f2"), next(iter(positions("sd1")))),
}


@pytest.mark.parametrize(("code", "beside", "where"), [(code, *case) for code, case in BESIDE.items()], ids=BESIDE)
def test_what_stands_beside_the_weights_is_told(code, beside, where, tmp_path):
    path = saved(tmp_path / "model.safetensors", {**weights("sd1"), **beside})
    assert found(path) == [(*TINY, ""), ("warning", code, where)]


def test_metadata_that_claims_another_model_is_doubted_and_written_anew(tmp_path):
    claim = {"modelspec.architecture": "stable-diffusion-xl-v1-base"}
    path = saved(tmp_path / "model.safetensors", weights("sd1"), claim)
    assert found(path) == [(*TINY, ""), ("warning", "metadata-contradicts", "metadata")]
    adapterhub.convert(path, tmp_path / "out.safetensors", to="single-file")
    told = adapterhub.inspect(tmp_path / "out.safetensors")
    assert told.metadata["modelspec.architecture"] == "stable-diffusion-v1"
    assert [problem.code for problem in told.problems] == ["other-widths"]


def test_a_part_that_several_models_have_is_told(tmp_path):
    prefix = "cond_stage_model.transformer."
    part = {place.removeprefix(prefix): tensor for place, tensor in weights("sd1").items() if place.startswith(prefix)}
    told = adapterhub.inspect(saved(tmp_path / "model.safetensors", part))
    assert told.architecture == "sd1"
    (message,) = [problem.message for problem in told.problems if problem.code == "ambiguous-architecture"]
    assert message == "the weights are those of sd2, sdxl as well; taken as sd1"


def test_numbers_that_are_none_are_errors_of_validate_alone(tmp_path, cli):
    tensors = weights("sd1")
    tensors[f"{UNET}out.2.weight"].flat[:3] = [np.nan, np.inf, -np.inf]
    tensors[f"{VAE}quant_conv.bias"].flat[0] = np.nan
    path = saved(tmp_path / "model.safetensors", tensors)
    told = adapterhub.validate(path)
    broken = [(problem.where, problem.message) for problem in told.problems if problem.code == "not-finite"]
    assert sorted(broken) == [
        ("unet.conv_out", "3 numbers are NaN or infinite"), ("vae.quant_conv", "1 numbers are NaN or infinite"),
    ]  # fmt: skip
    assert (told.valid, cli("validate", path).status, cli("inspect", path).status) == (False, 1, 0)


def test_a_sound_model_is_valid(tmp_path):
    told = adapterhub.validate(saved(tmp_path / "model.safetensors", {**weights("sdxl", "f2"), **positions("sdxl")}))
    assert (told.valid, [problem.code for problem in told.problems]) == (True, ["other-widths"])
