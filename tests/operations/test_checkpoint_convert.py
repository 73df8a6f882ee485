"""Whole models that are spelled unlike most, what their folders say, and which tensor went where."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import adapterhub
from adapterhub import architectures
from adapterhub.errors import BrokenAdapter, RefusedInput, UsageError
from tests.operations.checkpoint_files import (
    CONV_IN,
    content,
    document,
    folder_content,
    folder_of,
    positions,
    saved,
    schedule,
    weights,
)

CLIP = {"sd1": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}


@pytest.mark.parametrize("name", CLIP)
def test_text_encoders_without_the_level_that_others_have_get_it(name, tmp_path):
    """NovelAI's model, and what Kohya writes with transformers ≥ 5.6."""
    usual = {**weights(name), **positions(name)}
    short = {place.replace(f"{CLIP[name]}text_model.", CLIP[name]): tensor for place, tensor in usual.items()}
    assert len(usual.keys() - short.keys()) == 197
    source = saved(tmp_path / "short.safetensors", short)
    wanted = content(saved(tmp_path / "usual.safetensors", usual))
    done = adapterhub.convert(source, tmp_path / "out.safetensors", to="single-file")
    assert (content(tmp_path / "out.safetensors"), done.exactness) == (wanted, "bit-exact")
    assert done.summary["rename"] == 197
    adapterhub.convert(source, tmp_path / "folder", to="diffusers")
    adapterhub.convert(tmp_path / "folder", tmp_path / "back.safetensors", to="single-file")
    assert content(tmp_path / "back.safetensors") == wanted
    assert adapterhub.inspect(source).extras == {"position-ids": 1}


def test_a_text_encoder_that_is_there_in_both_spellings_is_not_taken_twice(tmp_path):
    both = weights("sd1") | {f"{CLIP['sd1']}final_layer_norm.bias": np.float32([7, 7])}
    _, folder = folder_of(tmp_path, both)
    kept = content(folder / "adapterhub_aside.safetensors")
    assert list(kept) == [f"{CLIP['sd1']}final_layer_norm.bias"]
    adapterhub.convert(folder, tmp_path / "back.safetensors", to="single-file")
    assert content(tmp_path / "back.safetensors") == content(tmp_path / "model.safetensors")


def test_sd2_in_the_names_of_sgm_is_sd2(tmp_path):
    """SD 2.1 Turbo."""
    usual = weights("sd2")
    turbo = {place.replace("cond_stage_model.", "conditioner.embedders.0."): tensor for place, tensor in usual.items()}
    source = saved(tmp_path / "turbo.safetensors", turbo)
    assert adapterhub.inspect(source).architecture == "sd2"
    adapterhub.convert(source, tmp_path / "out.safetensors", to="single-file")
    assert content(tmp_path / "out.safetensors") == content(saved(tmp_path / "usual.safetensors", usual))


def test_the_attention_of_an_old_vae_has_its_present_names(tmp_path):
    _, folder = folder_of(tmp_path, weights("sd1"))
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(path)
    for now, then in old.items():
        tensors = {place.replace(now, then): tensor for place, tensor in tensors.items()}
    assert sum("query" in place for place in tensors) == 4
    saved(path, tensors)
    adapterhub.convert(folder, tmp_path / "back.safetensors", to="single-file")
    assert content(tmp_path / "back.safetensors") == content(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["query", "to_q"])
def test_the_attention_of_a_vae_is_linear_where_a_folder_has_convolutions(name, tmp_path):
    _, folder = folder_of(tmp_path, weights("sd1"))
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    tensors, sound = load_file(path), folder_content(folder)
    turned = [place for place in tensors if place.endswith(".to_q.weight")]
    kept = {place: tensor for place, tensor in tensors.items() if place not in turned}
    saved(path, kept | {place.replace("to_q", name): tensors[place][..., None, None] for place in turned})
    back = adapterhub.convert(folder, tmp_path / "back.safetensors", to="single-file")
    assert content(tmp_path / "back.safetensors") == content(tmp_path / "model.safetensors")
    copy = adapterhub.convert(folder, tmp_path / "copy", to="diffusers")
    assert folder_content(tmp_path / "copy") == sound
    assert (back.summary["reshape"], copy.summary["reshape"]) == (6, 2)  # of the 8 in all, 2 are as they will be
    assert (back.exactness, copy.exactness) == ("bit-exact", "bit-exact")


@pytest.mark.parametrize("shape", [(2, 2, 3, 3), (2, 2, 1), (2,)], ids=str)
def test_what_cannot_be_a_linear_layer_of_a_vae_is_refused(shape, tmp_path):
    _, folder = folder_of(tmp_path, weights("sd1"))
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    place = "encoder.mid_block.attentions.0.to_q.weight"
    saved(path, load_file(path) | {place: np.ones(shape, "f4")})
    assert not adapterhub.validate(folder).valid
    with pytest.raises(BrokenAdapter, match="1 of 248 tensors are missing"):
        adapterhub.convert(folder, tmp_path / "back.safetensors", to="single-file")


def test_layers_of_a_single_file_that_become_convolutions_are_not_called_copies(tmp_path):
    tensors = weights("sd1")
    place = "first_stage_model.encoder.mid.attn_1.q.weight"
    source = saved(tmp_path / "linear.safetensors", tensors | {place: tensors[place][..., 0, 0]})
    done = adapterhub.convert(source, tmp_path / "out.safetensors", to="single-file")
    assert content(tmp_path / "out.safetensors") == content(saved(tmp_path / "usual.safetensors", tensors))
    assert [entry.source for entry in done.entries if entry.action == "reshape"] == [[place]]


ALONE = [("sd1", "unet"), ("sd1", "vae"), ("sd2", "text_encoder"), ("sdxl", "text_encoder_2"), ("sdxl", "unet")]


@pytest.mark.parametrize(("name", "part"), ALONE)
def test_a_component_without_its_prefix_is_one_of_the_architecture(name, part, tmp_path):
    prefix = architectures.get(name).parts[part].prefix
    own = {place: tensor for place, tensor in weights(name).items() if place.startswith(prefix)}
    bare = {place.removeprefix(prefix): tensor for place, tensor in own.items()}
    source = saved(tmp_path / "part.safetensors", bare)
    told = adapterhub.inspect(source)
    assert (told.architecture, list(told.components)) == (name, [part])
    adapterhub.convert(source, tmp_path / "out.safetensors", to="single-file")
    assert content(tmp_path / "out.safetensors") == content(saved(tmp_path / "whole.safetensors", own))


def test_the_ledger_says_what_was_cut_joined_turned_and_renamed(tmp_path):
    done, folder = folder_of(tmp_path, {**weights("sdxl"), **schedule()})
    by_source = {place: entry for entry in done.entries for place in entry.source}
    text = "conditioner.embedders.1.model."
    stack = by_source[f"{text}transformer.resblocks.5.attn.in_proj_bias"]
    assert (stack.action, stack.reason) == ("split", "three projections in one tensor")
    layer = "text_encoder_2/model.safetensors:text_model.encoder.layers.5.self_attn"
    assert sorted(stack.target) == [f"{layer}.{part}_proj.bias" for part in "kqv"]
    turned = by_source[f"{text}text_projection"]
    assert (turned.action, turned.reason) == ("reshape", "transposed")
    assert by_source["betas"].target == ["adapterhub_aside.safetensors:betas"]
    assert by_source[CONV_IN].target == ["unet/diffusion_pytorch_model.safetensors:conv_in.weight"]
    assert done.summary["split"] == 64
    back = adapterhub.convert(folder, tmp_path / "back.safetensors", to="single-file")
    assert (back.summary["join"], back.summary["reshape"]) == (3 * 64, 9)


CLASSES = [
    ("sd1", 4, "StableDiffusionPipeline"), ("sd1", 9, "StableDiffusionInpaintPipeline"),
    ("sd2", 8, "StableDiffusionInstructPix2PixPipeline"), ("sdxl", 9, "StableDiffusionXLInpaintPipeline"),
    ("sdxl-refiner", 4, "StableDiffusionXLImg2ImgPipeline"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "channels", "pipeline"), CLASSES)
def test_a_folder_says_which_pipeline_opens_it(name, channels, pipeline, tmp_path):
    _, folder = folder_of(tmp_path, weights(name, "f2", channels))
    index = document(folder, "model_index.json")
    assert index["_class_name"] == pipeline
    assert document(folder, "unet/config.json")["in_channels"] == channels
    held = {part for part, value in index.items() if isinstance(value, list) and value[0]}
    assert held == {path.name for path in folder.iterdir() if path.is_dir()}


def test_a_folder_of_fewer_components_says_so(tmp_path):
    _, folder = folder_of(tmp_path, {place: tensor for place, tensor in weights("sd1").items() if "cond_stage" not in place})  # fmt: skip
    index = document(folder, "model_index.json")
    assert (index["text_encoder"], index["tokenizer"]) == ([None, None], [None, None])
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert not (folder / "tokenizer").exists()
    adapterhub.convert(folder, tmp_path / "back.safetensors", to="single-file")
    assert content(tmp_path / "back.safetensors") == content(tmp_path / "model.safetensors")


def test_a_folder_becomes_a_folder_with_the_same_documents(tmp_path):
    _, folder = folder_of(tmp_path, {**weights("sd1"), **schedule()})
    config = document(folder, "scheduler/scheduler_config.json")
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps({**config, "steps_offset": 5}))
    done = adapterhub.convert(folder, tmp_path / "copy", to="diffusers")
    assert (done.exactness, folder_content(tmp_path / "copy")) == ("bit-exact", folder_content(folder))
    assert {entry.action for entry in done.entries} == {"copy"}
    assert document(tmp_path / "copy", "scheduler/scheduler_config.json")["steps_offset"] == 5


def test_what_is_written_says_what_it_is(tmp_path):
    _, folder = folder_of(tmp_path, weights("sdxl", "f2"), {"author": "me", "modelspec.title": "Mine"})
    adapterhub.convert(folder, tmp_path / "back.safetensors", for_tool="comfyui")
    with safe_open(tmp_path / "back.safetensors", "np") as file:
        told = file.metadata()
    assert (told["author"], told["modelspec.title"]) == ("me", "Mine")
    assert told["modelspec.architecture"] == "stable-diffusion-xl-v1-base"
    with safe_open(folder / "unet/diffusion_pytorch_model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_dry_run_says_the_same_and_writes_nothing(tmp_path):
    source = saved(tmp_path / "model.safetensors", weights("sd2", "f2"))
    planned = adapterhub.convert(source, tmp_path / "folder", to="diffusers", dry_run=True)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    done = adapterhub.convert(source, tmp_path / "folder", to="diffusers")
    assert (planned.entries, planned.summary) == (done.entries, done.summary)


def test_no_input_is_ever_overwritten(tmp_path):
    model, vae = (saved(tmp_path / f"{name}.safetensors", weights("sd1")) for name in ("model", "vae"))
    before = vae.read_bytes()
    with pytest.raises(UsageError, match="never overwritten"):
        adapterhub.convert(model, vae, vae=vae, force=True)
    assert vae.read_bytes() == before


def test_a_model_with_missing_modules_is_converted_only_on_demand(tmp_path):
    some = {name: tensor for name, tensor in weights("sdxl").items() if ".middle_block.1." not in name}
    source = saved(tmp_path / "ssd.safetensors", some)
    with pytest.raises(BrokenAdapter, match="missing"):
        adapterhub.convert(source, tmp_path / "folder", to="diffusers")
    done = adapterhub.convert(source, tmp_path / "folder", to="diffusers", allow_loss=True)
    assert done.exactness == "bit-exact"
    adapterhub.convert(tmp_path / "folder", tmp_path / "back.safetensors", to="single-file", allow_loss=True)
    assert adapterhub.diff(source, tmp_path / "back.safetensors").equal


def test_a_dtype_alone_keeps_the_layout(tmp_path):
    source = saved(tmp_path / "a.safetensors", weights("sd1"))
    done = adapterhub.convert(source, tmp_path / "b.safetensors", dtype="fp16")
    assert (done.target.layout, done.summary["cast"]) == ("single-file", len(weights("sd1")))


SCALE = "model.diffusion_model.out.2.scale_weight"


@pytest.mark.parametrize("asked", [
    {"to": "diffusers"}, {"dtype": "fp16"}, {"vae_dtype": "fp16"}, {"only": "unet"}, {"vae": "plain.safetensors"},
])  # fmt: skip
def test_scaled_fp8_is_refused_wherever_it_would_lose_its_scales(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "plain.safetensors", weights("sd1"))
    source = saved(tmp_path / "a.safetensors", weights("sd1") | {SCALE: np.array(3, "f4")})
    with pytest.raises(RefusedInput, match=f"its fp8 numbers are scaled, each by a tensor such as {SCALE}"):
        adapterhub.convert(source, tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_scaled_fp8_is_copied_with_its_scales_and_that_is_told(tmp_path):
    source = saved(tmp_path / "a.safetensors", weights("sd1") | {SCALE: np.array(3, "f4")})
    done = adapterhub.convert(source, tmp_path / "b.safetensors", prune=True)
    assert (done.exactness, content(tmp_path / "b.safetensors")) == ("bit-exact", content(source))
    told = adapterhub.validate(tmp_path / "b.safetensors").problems
    assert [(problem.severity, problem.where) for problem in told if problem.code == "scaled-fp8"] == [
        ("warning", SCALE)
    ]
