"""What can be asked for when a whole model is converted, and what then becomes of every tensor."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch

import adapterhub
from adapterhub import architectures
from adapterhub.architectures import tokenizer
from adapterhub.errors import MalformedFile, NotAnAdapter, UnknownName, UsageError
from tests.operations.checkpoint_files import (
    FOREIGN,
    MARKERS,
    SCHEDULE,
    UNET,
    Tensors,
    averages,
    content,
    drops,
    folder_content,
    positions,
    saved,
    schedule,
    stored,
    weights,
)

VAE = "first_stage_model."


def test_pruning_leaves_out_what_only_training_needs_and_nothing_else(model, tmp_path):
    done = adapterhub.convert(model, tmp_path / "out.safetensors", prune=True)
    kept = {**weights("sd1"), **positions("sd1"), **FOREIGN, **MARKERS}
    assert content(tmp_path / "out.safetensors") == stored(kept)
    assert drops(done) == dict.fromkeys([*averages(weights("sd1")), *SCHEDULE], "a leftover of training, pruned")
    assert (done.exactness, done.target.layout) == ("bit-exact", "single-file")


def test_pruning_a_folder_prunes_what_is_kept_aside_in_it(model, tmp_path):
    adapterhub.convert(model, tmp_path / "folder", to="diffusers")
    done = adapterhub.convert(tmp_path / "folder", tmp_path / "pruned", prune=True)
    assert (done.exactness, done.target.layout) == ("bit-exact", "diffusers")
    aside = {**positions("sd1"), **FOREIGN, **MARKERS}
    assert content(tmp_path / "pruned" / "adapterhub_aside.safetensors") == stored(aside)
    assert folder_content(tmp_path / "pruned") == folder_content(tmp_path / "folder")


def other_vae(dtype="f4") -> Tensors:
    return {place: (tensor * 3).astype(dtype) for place, tensor in weights("sd1").items() if place.startswith(VAE)}


def bare(folder: Path) -> Path:
    tensors = {place.removeprefix(VAE): tensor for place, tensor in other_vae().items()}
    return saved(folder / "vae.safetensors", tensors)


def pickled(folder: Path) -> Path:
    state = {place.removeprefix(VAE): torch.from_numpy(tensor) for place, tensor in other_vae().items()}
    state["loss.discriminator.main.0.weight"] = torch.ones(2)
    torch.save({"state_dict": state, "global_step": 3}, folder / "model.vae.pt")
    return folder / "model.vae.pt"


def whole(folder: Path) -> Path:
    return saved(folder / "whole.safetensors", {**weights("sd1"), **other_vae()})


def in_a_folder(folder: Path) -> Path:
    adapterhub.convert(whole(folder), folder / "other", to="diffusers")
    return folder / "other"


def of_diffusers(folder: Path) -> Path:
    return in_a_folder(folder) / "vae/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("make", [bare, pickled, whole, in_a_folder, of_diffusers])
def test_the_vae_of_another_file_takes_the_place_of_the_own_one(make, plain, tmp_path):
    done = adapterhub.convert(plain, tmp_path / "out.safetensors", vae=make(tmp_path), verify=True)
    assert content(tmp_path / "out.safetensors") == stored({**weights("sd1"), **other_vae()})
    assert drops(done) == dict.fromkeys(other_vae(), "another VAE was given")
    assert (done.exactness, done.max_error) == ("bit-exact", 0.0)


def test_a_folder_without_a_vae_gets_one(plain, tmp_path):
    rest = {place: tensor for place, tensor in weights("sd1").items() if not place.startswith(VAE)}
    adapterhub.convert(saved(tmp_path / "rest.safetensors", rest), tmp_path / "folder", to="diffusers")
    adapterhub.convert(tmp_path / "folder", tmp_path / "out.safetensors", to="single-file", vae=plain)
    assert content(tmp_path / "out.safetensors") == content(plain)


def test_a_file_without_a_vae_gives_none(plain, tmp_path):
    unet = {place: tensor for place, tensor in weights("sd1").items() if place.startswith(UNET)}
    with pytest.raises(NotAnAdapter, match="holds no VAE"):
        adapterhub.convert(plain, tmp_path / "out.safetensors", vae=saved(tmp_path / "unet.safetensors", unet))


PARTS = [("sd1", "unet"), ("sd1", "vae"), ("sdxl", "text_encoder_2")]


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_one_component_in_both_layouts_out_of_both(name, part, tmp_path):
    source = saved(tmp_path / "model.safetensors", {**weights(name), **positions(name), **schedule()})
    prefix = architectures.get(name).parts[part].prefix
    own = {place: tensor for place, tensor in weights(name).items() if place.startswith(prefix)}
    adapterhub.convert(source, tmp_path / "folder", to="diffusers")
    for number, there in enumerate([source, tmp_path / "folder"]):
        file, folder = tmp_path / f"{number}.safetensors", tmp_path / f"{number}"
        done = adapterhub.convert(there, file, to="single-file", only=part)
        assert (content(file), done.exactness) == (stored(own), "bit-exact")
        assert set(drops(done).values()) == {"another component was asked for"}
        adapterhub.convert(there, folder, to="diffusers", only=part)
        weight_file = "model" if part.startswith("text") else "diffusion_pytorch_model"
        assert sorted(path.name for path in folder.iterdir()) == ["config.json", f"{weight_file}.safetensors"]
        assert content(folder / f"{weight_file}.safetensors") == content(
            tmp_path / f"folder/{part}/{weight_file}.safetensors"
        )


def test_a_component_that_is_not_there_is_wrong_usage(plain, tmp_path):
    with pytest.raises(UnknownName, match="text_encoder_2"):
        adapterhub.convert(plain, tmp_path / "out.safetensors", only="text_encoder_2")


def odd(tensors: Tensors, place: str, values: list[float]) -> None:
    tensors[place] = tensors[place].copy()
    tensors[place].flat[: len(values)] = values


def test_casts_count_what_became_infinite_and_what_became_zero(tmp_path):
    tensors = {**weights("sd1"), **schedule(), **positions("sd1")}
    odd(tensors, f"{UNET}out.2.weight", [1e5, -1e5, np.inf, 65504.0, 65519.0, 65520.0, 1e-9, -1e-9, 2.0**-25, 2.0**-24])
    odd(tensors, f"{VAE}decoder.conv_in.weight", [1e6, 1e-9, 1e-9])
    source = saved(tmp_path / "model.safetensors", tensors)
    cases = [({"dtype": "fp16"}, 4, 5), ({"dtype": "fp16", "vae_dtype": "fp32"}, 3, 3), ({"vae_dtype": "fp16"}, 1, 2)]
    for number, (asked, overflows, underflows) in enumerate(cases):
        out = tmp_path / f"{number}.safetensors"
        done = adapterhub.convert(source, out, to="single-file", **asked)
        told = {problem.code: problem.message for problem in done.problems if problem.code.startswith("cast")}
        assert told == {
            "cast-overflow": f"{overflows} numbers became infinite in the cast",
            "cast-underflow": f"{underflows} numbers that were not zero became zero in the cast",
        }
        assert done.exactness == "approximate"


def test_every_component_has_the_dtype_that_was_asked_for_and_nothing_else_is_cast(tmp_path):
    tensors = {**weights("sd1"), **schedule(), **positions("sd1")}
    source = saved(tmp_path / "model.safetensors", tensors)
    adapterhub.convert(source, tmp_path / "out.safetensors", dtype="bf16", vae_dtype="fp16")
    found = load_torch(tmp_path / "out.safetensors")
    wanted = {}
    for place, tensor in tensors.items():
        beside = place in schedule() or place in positions("sd1")
        dtype = None if beside else torch.float16 if place.startswith(VAE) else torch.bfloat16
        wanted[place] = torch.from_numpy(tensor).to(dtype)
    assert found.keys() == wanted.keys()
    assert all(found[place].dtype == tensor.dtype and torch.equal(found[place], tensor) for place, tensor in wanted.items())  # fmt: skip


def test_a_cast_to_more_digits_is_proved_exact(tmp_path):
    source = saved(tmp_path / "model.safetensors", weights("sd1", "f2"))
    done = adapterhub.convert(source, tmp_path / "out.safetensors", to="single-file", dtype="fp32", verify=True)
    assert (done.exactness, done.max_error, done.problems[1:]) == ("bit-exact", 0.0, [])


def test_what_was_cast_is_measured_where_that_is_asked_for(plain, tmp_path):
    done = adapterhub.convert(plain, tmp_path / "out.safetensors", to="single-file", dtype="fp16", verify=True)
    assert (done.exactness, 0 < done.max_error < 2**-11) == ("approximate", True)
    assert adapterhub.convert(plain, tmp_path / "two.safetensors", to="single-file", dtype="fp16").max_error is None


@pytest.mark.parametrize(("dtype", "called"), [("f2", "F16"), ("f4", "F32"), ("i4", "I32")])
def test_position_ids_of_another_dtype_are_mended_and_that_is_told(dtype, called, tmp_path):
    (name,) = positions("sd1")
    damaged = positions("sd1", dtype)
    damaged[name][0, 3] = 2  # what a merge of halves leaves
    source = saved(tmp_path / "model.safetensors", {**weights("sd1"), **damaged})
    done = adapterhub.convert(source, tmp_path / "out.safetensors", to="single-file")
    assert load_file(tmp_path / "out.safetensors")[name].tolist() == [list(range(77))]
    assert content(tmp_path / "out.safetensors")[name][0] == "int64"
    assert [problem.where for problem in done.problems if problem.code == "position-ids"] == [name]
    (entry,) = [entry for entry in done.entries if entry.source == [name]]
    assert (entry.action, entry.reason) == ("cast", f"{called} to I64: position ids are 0, 1, 2 …")


@pytest.mark.parametrize("dtype", ["i4", "i2", "u1", "f2", "f4", "f8"])
@pytest.mark.parametrize("to", ["single-file", "diffusers"])
def test_position_ids_are_the_same_numbers_in_another_dtype(dtype, to, tmp_path):
    source = saved(tmp_path / "model.safetensors", {**weights("sd1"), **positions("sd1", dtype)})
    done = adapterhub.convert(source, tmp_path / "out", to=to)
    (entry,) = [entry for entry in done.entries if entry.action == "cast"]
    assert (entry.source, entry.reason) == (list(positions("sd1")), "to I64: the same position ids 0, 1, 2 …")
    assert done.exactness == "exact"


@pytest.mark.parametrize("dtype", ["f2", "i4", "i8"])
def test_position_ids_that_are_not_written_are_not_said_to_be(dtype, tmp_path):
    damaged = {name: ids[:, ::-1] for name, ids in positions("sd1", dtype).items()}
    source = saved(tmp_path / "model.safetensors", {**weights("sd1"), **damaged, "model_ema.decay": np.ones(1, "f4")})
    for to in ("single-file", "diffusers"):
        done = adapterhub.convert(source, tmp_path / to, to=to, only="unet")
        mends = {problem.code: problem.mend for problem in done.problems}
        assert mends["leftovers"] == "They were left out."
        assert mends.get("position-ids", "They were left out.") == "They were left out."
    assert ("position-ids" in mends) == (dtype != "i8")


def test_position_ids_that_are_damaged_whole_numbers_are_told_and_mended(tmp_path):
    (name,) = sound = positions("sd1")
    source = saved(tmp_path / "model.safetensors", {**weights("sd1"), name: np.maximum(sound[name], 1)})
    told = adapterhub.validate(source)
    assert (told.valid, [problem.where for problem in told.problems if problem.code == "position-ids"]) == (
        True,
        [name],
    )
    done = adapterhub.convert(source, tmp_path / "out.safetensors", to="single-file")
    assert content(tmp_path / "out.safetensors")[name] == stored(sound)[name]
    assert [entry.reason for entry in done.entries if entry.action == "compute"] == ["position ids are 0, 1, 2 …"]
    assert not [problem for problem in adapterhub.validate(done.target.path).problems if problem.code == "position-ids"]


def test_tokenizers_and_configurations_come_from_where_they_are_asked_for(plain, tmp_path):
    given, config = tmp_path / "given", tmp_path / "config"
    given.mkdir()
    vocabulary = {"a": 0, "b": 1}
    (given / "vocab.json").write_text(json.dumps(vocabulary))
    (given / "merges.txt").write_text("#version: 0.2\na b\n")
    adapterhub.convert(plain, config, to="diffusers")
    unet = json.loads((config / "unet/config.json").read_text())
    (config / "unet/config.json").write_text(json.dumps({**unet, "sample_size": 96}))
    adapterhub.convert(plain, tmp_path / "out", to="diffusers", tokenizer=given, config=config)
    assert sorted(path.name for path in (tmp_path / "out/tokenizer").iterdir()) == sorted(
        {*tokenizer.files("<|endoftext|>")}
    )
    assert json.loads((tmp_path / "out/tokenizer/vocab.json").read_text()) == vocabulary
    assert json.loads((tmp_path / "out/unet/config.json").read_text())["sample_size"] == 96


def test_folders_that_hold_no_tokenizer_or_no_model_are_refused(plain, tmp_path):
    for asked in ({"tokenizer": tmp_path / "none"}, {"config": tmp_path / "none"}):
        with pytest.raises(UsageError):
            adapterhub.convert(plain, tmp_path / "out", to="diffusers", **asked)
    (tmp_path / "hollow").mkdir()
    with pytest.raises(MalformedFile):
        adapterhub.convert(plain, tmp_path / "out", to="diffusers", tokenizer=tmp_path / "hollow")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("asked", [["--shard-size", "5GB"], ["--tokenizer", "x"], ["--config", "x"]], ids=" ".join)
def test_what_is_for_folders_is_wrong_usage_for_a_single_file(asked, plain, cli, tmp_path):
    done = cli("convert", plain, "-o", tmp_path / "out.safetensors", "--to", "single-file", *asked)
    assert (done.status, (tmp_path / "out.safetensors").exists()) == (2, False)
    assert f"{asked[0]} is for a folder" in done.err


OF_WHOLE_MODELS = [["--prune"], ["--ema"], ["--vae-dtype", "fp16"], ["--only", "unet"], ["--shard-size", "5GB"],
                   ["--verify"], ["--vae", "x"], ["--tokenizer", "x"], ["--config", "x"]]  # fmt: skip


@pytest.mark.parametrize("asked", OF_WHOLE_MODELS, ids=" ".join)
def test_what_is_for_whole_models_is_wrong_usage_for_a_lora(asked, style, cli, tmp_path):
    done = cli("convert", style, "-o", tmp_path / "out.safetensors", "--to", "kohya", *asked)
    assert (done.status, (tmp_path / "out.safetensors").exists()) == (2, False)
    assert "whole model" in done.err


def test_the_command_prunes_in_the_own_layout(model, cli, tmp_path):
    done = cli("convert", model, "-o", tmp_path / "out.safetensors", "--prune", "--dtype", "fp16", "--json")
    assert (done.status, json.loads(done.out)["summary"]["drop"]) == (0, 688 + len(SCHEDULE))
    shards = cli("convert", model, "-o", tmp_path / "out", "--to", "diffusers", "--shard-size", "1000KB")
    assert (shards.status, "1 MiB" in shards.err) == (2, True)
