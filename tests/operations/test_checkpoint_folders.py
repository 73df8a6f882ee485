"""Folders of whole models: what their documents come from, what else is in them, and what becomes of that."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import adapterhub
from adapterhub.errors import UsageError
from tests.operations.checkpoint_files import Tensors, content, document, saved, weights

VOCABULARY = {"vocab": {"cat</w>": 1, "dog</w>": 0}, "type": "BPE"}


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    adapterhub.convert(plain, tmp_path / "folder", to="diffusers")
    return tmp_path / "folder"


def write(path: Path, told: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(told))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_empty_folder_is_filled_as_a_dry_run_says(plain, tmp_path, cli):
    (tmp_path / "out").mkdir()
    for asked in (["--dry-run"], []):
        assert cli("convert", plain, "-o", tmp_path / "out", "--to", "diffusers", *asked).status == 0
    assert "model_index.json" in names(tmp_path / "out")


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("configured", [False, True])
def test_a_tokenizer_is_never_mixed_with_another_vocabulary(folder, tmp_path, given, configured):
    """As transformers 5 saves one; without a configuration the length and the special tokens are those of CLIP."""
    theirs = tmp_path / "theirs" if given else folder / "tokenizer"
    for path in folder.glob("tokenizer/*"):
        path.unlink()
    write(theirs / "tokenizer.json", {"model": VOCABULARY})
    if configured:
        write(theirs / "tokenizer_config.json", {"pad_token": "!"})
    source = tmp_path / "plain.safetensors" if given else folder
    adapterhub.convert(source, tmp_path / "out", to="diffusers", dtype="fp16", tokenizer=theirs if given else None)
    beside = ["tokenizer_config.json"] if configured else ["special_tokens_map.json", "tokenizer_config.json"]
    assert names(tmp_path / "out/tokenizer") == sorted(["tokenizer.json", *beside])
    assert document(tmp_path / "out", "tokenizer/tokenizer.json") == {"model": VOCABULARY}
    if configured:
        assert document(tmp_path / "out", "tokenizer/tokenizer_config.json") == {"pad_token": "!"}


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_each_tensor_that_is_left_out_stands_in_one_entry(name, tmp_path):
    source = saved(tmp_path / "model.safetensors", weights(name))
    done = adapterhub.convert(source, tmp_path / "out.safetensors", only="unet")
    assert sorted(place for entry in done.entries for place in entry.source) == sorted(weights(name))


def test_the_ledger_names_the_shard_of_a_component_alone(tmp_path):
    tensors = weights("sd1")
    place = next(place for place in tensors if "token_embedding" in place)
    tensors[place] = tensors[place].repeat(1 << 18, axis=0)
    source = saved(tmp_path / "model.safetensors", tensors)
    done = adapterhub.convert(source, tmp_path / "out", to="diffusers", only="text_encoder", shard_size=1 << 20)
    kept = [entry for entry in done.entries if entry.action != "drop"]
    assert {entry.action for entry in kept} == {"rename"}
    written = {f"{path.name}:{name}" for path in (tmp_path / "out").glob("*.safetensors") for name in content(path)}
    assert {target for entry in kept for target in entry.target} == written
    assert "model.safetensors.index.json" in names(tmp_path / "out")


CHECKER = {"a.weight": np.float16([1, 2]), "b": np.int64([[3]])}
CHECKED = ["stable_diffusion", "StableDiffusionSafetyChecker"]
EXTRACTED = ["transformers", "CLIPImageProcessor"]


@pytest.fixture
def checked(folder: Path) -> Path:
    """A folder with a safety checker as a pickle, an extractor that is a document, and a component that is named and not there."""
    (folder / "safety_checker").mkdir()
    state = {name: torch.from_numpy(tensor) for name, tensor in CHECKER.items()}
    torch.save(state, folder / "safety_checker/pytorch_model.bin")
    write(folder / "safety_checker/config.json", {"projection_dim": 4})
    write(folder / "feature_extractor/preprocessor_config.json", {"crop_size": 8})
    rows = {"safety_checker": CHECKED, "feature_extractor": EXTRACTED, "image_encoder": ["transformers", "X"]}
    index = document(folder, "model_index.json")
    write(folder / "model_index.json", {**index, **rows, "requires_safety_checker": True})
    return folder


PLACES = {f"safety_checker/pytorch_model.bin:{name}" for name in CHECKER}


@pytest.mark.parametrize("asked", [{}, {"prune": True}, {"dtype": "fp16"}])
def test_components_of_no_architecture_go_from_folder_to_folder(checked, tmp_path, asked):
    done = adapterhub.convert(checked, tmp_path / "out", to="diffusers", **asked)
    found = content(tmp_path / "out/safety_checker/model.safetensors")
    assert found == content(saved(tmp_path / "checker.safetensors", CHECKER))
    assert document(tmp_path / "out", "safety_checker/config.json") == {"projection_dim": 4}
    assert document(tmp_path / "out", "feature_extractor/preprocessor_config.json") == {"crop_size": 8}
    index = document(tmp_path / "out", "model_index.json")
    assert (index["safety_checker"], index["feature_extractor"]) == (CHECKED, EXTRACTED)
    assert (index["image_encoder"], index["requires_safety_checker"]) == ([None, None], True)
    places = {place: entry.target for entry in done.entries for place in entry.source if place in PLACES}
    assert places == {place: [place.replace("pytorch_model.bin", "model.safetensors")] for place in PLACES}


@pytest.fixture
def guided(checked: Path) -> Path:
    """The same weights as an image encoder, on which images depend."""
    (checked / "image_encoder").mkdir()
    save_file(CHECKER, checked / "image_encoder/model.safetensors")
    return checked


def test_a_safety_checker_is_no_loss_in_a_single_file_and_listed(checked, tmp_path):
    done = adapterhub.convert(checked, tmp_path / "out.safetensors", to="single-file")
    dropped = {place for entry in done.entries for place in entry.source if entry.action == "drop"}
    assert (dropped, done.exactness) == (PLACES, "bit-exact")


def test_components_of_no_architecture_are_a_loss_in_a_single_file(guided, tmp_path, cli):
    checked, places = guided, {f"image_encoder/model.safetensors:{name}" for name in CHECKER}
    for asked in ([], ["--prune"], ["--dry-run"]):
        refused = cli("convert", checked, "-o", tmp_path / "out.safetensors", "--to", "single-file", *asked)
        assert (refused.status, (tmp_path / "out.safetensors").exists()) == (4, False)
        assert "cannot hold 2 tensors" in refused.err
    done = adapterhub.convert(checked, tmp_path / "out.safetensors", to="single-file", allow_loss=True)
    dropped = {place: entry.reason for entry in done.entries for place in entry.source if entry.action == "drop"}
    lost = {place for place, why in dropped.items() if why == "single-file has no place for this"}
    assert (lost, dropped.keys(), done.exactness) == (places, places | PLACES, "partial")
    alone = adapterhub.convert(checked, tmp_path / "unet.safetensors", to="single-file", only="unet")
    assert {place for entry in alone.entries for place in entry.source if entry.action == "drop"} > PLACES
    assert alone.exactness == "bit-exact"


def test_what_the_index_does_not_name_is_no_component(checked, tmp_path):
    index = document(checked, "model_index.json")
    write(checked / "model_index.json", {**index, "safety_checker": [None, None]})
    done = adapterhub.convert(checked, tmp_path / "out.safetensors", to="single-file")
    assert (done.exactness, done.summary["drop"]) == ("bit-exact", 0)


def test_configurations_come_from_a_folder_without_weights(plain, folder, tmp_path):
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    write(folder / "unet/config.json", {**document(folder, "unet/config.json"), "sample_size": 96})
    adapterhub.convert(plain, tmp_path / "out", to="diffusers", config=folder)
    assert document(tmp_path / "out", "unet/config.json")["sample_size"] == 96


@pytest.mark.parametrize("other", ["sd2", "sdxl", "sdxl-refiner", "a component"])
def test_configurations_of_another_model_are_refused(plain, tmp_path, other):
    model = "sd1" if other == "a component" else other
    adapterhub.convert(saved(tmp_path / "a.safetensors", weights(model)), tmp_path / "config", to="diffusers")
    config = tmp_path / "config" / ("unet" if other == "a component" else "")
    message = "is no folder with model_index.json" if other == "a component" else "no pipeline of Stable Diffusion 1"
    with pytest.raises(UsageError, match=message):
        adapterhub.convert(plain, tmp_path / "out", to="diffusers", config=config)
    with pytest.raises(UsageError, match=message):
        adapterhub.convert(plain, tmp_path / "out", to="diffusers", config=config, only="vae")
    assert not (tmp_path / "out").exists()


def vae_of(name: str) -> Tensors:
    return {place: tensor * 3 for place, tensor in weights(name).items() if place.startswith("first_stage_model.")}


@pytest.mark.parametrize("to", ["single-file", "diffusers"])
def test_each_tensor_of_another_vae_stands_in_one_entry(plain, tmp_path, to):
    vae = saved(tmp_path / "vae.safetensors", vae_of("sd1"))
    out = tmp_path / ("out.safetensors" if to == "single-file" else "out")
    done = adapterhub.convert(plain, out, to=to, vae=vae, dtype="fp16")
    places = sorted(place for entry in done.entries for place in entry.source)
    assert places == sorted([*weights("sd1"), *(f"{vae}:{place}" for place in vae_of("sd1"))])
    taken = [entry for entry in done.entries if entry.source[0].startswith(str(vae))]
    assert ({entry.action for entry in taken}, all(entry.target for entry in taken)) == ({"cast"}, True)
    assert [(one.path, len(one.sha256)) for one in done.inputs] == [(str(plain), 64), (str(vae), 64)]
    assert not [problem for problem in done.problems if problem.code == "other-latents"]


def test_a_vae_that_would_be_left_out_again_is_wrong_usage(plain, tmp_path, cli):
    done = cli("convert", plain, "-o", tmp_path / "out.safetensors", "--vae", plain, "--only", "unet")
    assert (done.status, "--vae is not part of --only unet" in done.err) == (2, True)
    adapterhub.convert(plain, tmp_path / "vae.safetensors", vae=plain, only="vae")


@pytest.mark.parametrize(("name", "scale"), [("sd2", None), ("sdxl", 0.13025)])
def test_a_vae_for_latents_of_another_scale_is_warned_of(plain, tmp_path, name, scale):
    other = saved(tmp_path / "other.safetensors", weights(name))
    done = adapterhub.convert(plain, tmp_path / "out.safetensors", vae=other)
    told = [problem.message for problem in done.problems if problem.code == "other-latents"]
    wanted = f"the VAE that was given is for latents times {scale}, the model for such times 0.18215"
    assert told == ([wanted] if scale else [])


@pytest.mark.parametrize("part", ["", "vae"])
def test_the_configuration_of_a_vae_comes_with_it(plain, folder, tmp_path, part):
    write(folder / "vae/config.json", {**document(folder, "vae/config.json"), "scaling_factor": 0.5})
    done = adapterhub.convert(plain, tmp_path / "out", to="diffusers", vae=folder / part)
    assert document(tmp_path / "out", "vae/config.json")["scaling_factor"] == 0.5
    assert [problem.code for problem in done.problems if problem.code == "other-latents"]
