"""Folders that hold weights more than once, as diffusers' `variant` tells them apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import adapterhub
from adapterhub.errors import UsageError
from tests.operations.checkpoint_files import content, saved, weights
from tests.operations.merge_files import lora

UNET, TEXT = "unet/diffusion_pytorch_model", "text_encoder/model"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A UNet as fp16 and non_ema and not plainly, a text encoder as fp16 and plainly, a VAE plainly."""
    found = tmp_path / "folder"
    adapterhub.convert(saved(tmp_path / "model.safetensors", weights("sd1")), found, to="diffusers")
    whole = load_file(found / f"{UNET}.safetensors")
    saved(found / f"{UNET}.non_ema.safetensors", {name: -tensor for name, tensor in whole.items()})
    for stem in (UNET, TEXT):
        halves = {name: tensor.astype("f2") for name, tensor in load_file(found / f"{stem}.safetensors").items()}
        saved(found / f"{stem}.fp16.safetensors", halves)
    (found / f"{UNET}.safetensors").unlink()
    return found


@pytest.fixture
def sd1_lora(tmp_path: Path) -> Path:
    return lora(tmp_path / "lora.safetensors")


TAKEN = {"fp16": (f"{UNET}.fp16", f"{TEXT}.fp16"), "non_ema": (f"{UNET}.non_ema", TEXT)}


@pytest.mark.parametrize("variant", TAKEN)
def test_the_variant_that_is_asked_for_is_taken_and_plain_weights_where_there_is_none(folder, tmp_path, variant):
    done = adapterhub.convert(folder, tmp_path / "out", to="diffusers", variant=variant)
    for stem, source in zip((UNET, TEXT), TAKEN[variant], strict=True):
        assert content(tmp_path / f"out/{stem}.safetensors") == content(folder / f"{source}.safetensors")
        assert any(entry.source[0].startswith(f"{source}.safetensors:") for entry in done.entries)
    assert json.loads(adapterhub.inspect(folder, variant=variant).model_dump_json())["layout"] == "diffusers"
    assert adapterhub.validate(folder, variant=variant).valid


@pytest.mark.parametrize("command", ["convert", "inspect", "validate", "merge", "diff", "extract", "plot"])
def test_weights_in_several_variants_are_a_question_that_can_be_answered(folder, tmp_path, cli, sd1_lora, command):
    out, model = tmp_path / "out", tmp_path / "model.safetensors"
    asked = {
        "convert": ["-o", out, "--prune"], "merge": [sd1_lora, "-o", out], "diff": [model],
        "extract": [model, "-o", out, "--rank", 1], "plot": ["-o", out, "--base", model],
    }.get(command, [])  # fmt: skip
    for wrong in ([], ["--variant", "bf16"]):
        done = cli(command, folder, *asked, *wrong)
        assert (done.status, (tmp_path / "out").exists()) == (2, False)
        assert "several models" in done.err
        assert "--variant fp16 or --variant non_ema" in done.err
    (folder / f"{UNET}.fp16.safetensors").rename(folder / f"{UNET}.safetensors")
    wrong = cli(command, folder, *asked, "--variant", "bf16")
    assert (wrong.status, (tmp_path / "out").exists()) == (2, False)
    assert "holds no weights of the variant 'bf16'" in wrong.err
    assert "there are: fp16, non_ema" in wrong.err


@pytest.mark.parametrize("command", ["convert", "inspect", "validate"])
def test_a_variant_of_what_is_no_pipeline_is_wrong_usage(folder, tmp_path, cli, command):
    asked = ["-o", tmp_path / "out.safetensors", "--to", "single-file"] if command == "convert" else []
    for path in (folder / "vae", tmp_path / "model.safetensors"):
        done = cli(command, path, "--variant", "fp16", *asked)
        assert (done.status, (tmp_path / "out.safetensors").exists()) == (2, False)
        assert "--variant is for the folder of a pipeline" in done.err


def test_the_variant_is_that_of_every_folder_that_has_it(folder, tmp_path, cli, sd1_lora):
    """diffusers looks for a variant in each component, and takes plain weights where there is none."""
    model, halves = tmp_path / "model.safetensors", tmp_path / "halves.safetensors"
    adapterhub.convert(folder, halves, to="single-file", variant="fp16")
    for pair in ((folder, halves), (halves, folder)):
        assert cli("diff", *pair, "--variant", "fp16").status == 0
        assert cli("diff", *pair, "--variant", "non_ema").status == 1
    assert adapterhub.diff(folder, folder, variant="non_ema").equal
    tuned = adapterhub.extract(folder, model, tmp_path / "tuned.safetensors", rank=1, variant="non_ema")
    assert {approximated.module.partition(".")[0] for approximated in tuned.approximations} == {"unet"}
    found = adapterhub.inspect(sd1_lora, spectrum=True, base=folder, variant="fp16").spectrum
    assert found == adapterhub.inspect(sd1_lora, spectrum=True, base=halves).spectrum
    assert adapterhub.validate(halves, base=folder, variant="fp16").descent.equal == 1
    assert adapterhub.validate(sd1_lora, base=folder, variant="fp16").valid
    assert adapterhub.diff(sd1_lora, sd1_lora, base=folder, variant="fp16").equal


def test_the_model_that_an_adapter_is_to_fit_may_be_a_variant(folder, sd1_lora, cli):
    told = cli("compatible", sd1_lora, folder)
    assert told.status == 2
    assert "--variant fp16 or --variant non_ema" in told.err
    assert cli("compatible", sd1_lora, folder, "--variant", "fp16").out.startswith(
        f"{sd1_lora}: sd1 kohya lora\nfits {folder}"
    )
    assert adapterhub.compatible(sd1_lora, folder, variant="non_ema").fits


def test_a_vae_and_a_base_come_from_the_variant_too(folder, tmp_path, sd1_lora):
    model, vae = tmp_path / "model.safetensors", folder / "vae/diffusion_pytorch_model"
    small = {name: tensor.astype("f2") for name, tensor in load_file(f"{vae}.safetensors").items()}
    saved(Path(f"{vae}.fp16.safetensors"), small)
    done = adapterhub.convert(
        model, tmp_path / "out", to="diffusers", vae=folder, variant="fp16", architecture="sd1", digests=False
    )
    assert content(tmp_path / "out/vae/diffusion_pytorch_model.safetensors") == content(Path(f"{vae}.fp16.safetensors"))
    assert done.recipe.parameters["variant"] == "fp16"
    adapterhub.convert(sd1_lora, tmp_path / "out.safetensors", to="comfyui", base=folder, variant="fp16")


def test_a_variant_that_neither_the_source_nor_the_base_has_is_wrong_usage(folder, sd1_lora, cli):
    done = cli("validate", sd1_lora, "--base", folder, "--variant", "bf16")
    assert done.status == 2
    assert "--variant is for the folder of a pipeline, with model_index.json, that has weights of that name" in done.err


def test_a_merge_repeats_with_the_variant_that_it_was_made_of(folder, tmp_path, sd1_lora):
    done = adapterhub.merge(folder, [sd1_lora], tmp_path / "out", variant="fp16")
    names = {path.name for path in (tmp_path / "out/unet").iterdir()}
    assert names == {"config.json", "diffusion_pytorch_model.fp16.safetensors"}
    assert done.recipe.parameters["variant"] == "fp16"
    recipe = tmp_path / "recipe.json"
    recipe.write_text(done.recipe.model_dump_json())
    adapterhub.merge(None, [], tmp_path / "again", recipe=recipe)
    for path in (tmp_path / "out").rglob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "out")).read_bytes()
    with pytest.raises(UsageError, match="variant"):
        adapterhub.merge(None, [], tmp_path / "more", recipe=recipe, variant="fp16")


def test_shards_of_a_variant_come_out_under_the_name_of_the_variant(folder, tmp_path, sd1_lora):
    """As diffusers writes them."""
    whole = load_file(folder / f"{UNET}.fp16.safetensors")
    for name in ("fp16", "non_ema"):
        (folder / f"{UNET}.{name}.safetensors").unlink()
    half = dict(list(whole.items())[::2])
    shards = [half, {name: tensor for name, tensor in whole.items() if name not in half}]
    names = [f"diffusion_pytorch_model.fp16-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name, tensors in zip(names, shards, strict=True):
        saved(folder / "unet" / name, tensors)
    index = {tensor: name for name, tensors in zip(names, shards, strict=True) for tensor in tensors}
    size = sum(tensor.nbytes for tensor in whole.values())
    told = {"metadata": {"total_size": size}, "weight_map": index}
    (folder / f"{UNET}.safetensors.index.fp16.json").write_text(json.dumps(told))
    adapterhub.merge(folder, [sd1_lora], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out/unet").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.fp16.safetensors",
    ]


def test_one_variant_in_every_component_needs_no_word(folder, tmp_path):
    (folder / f"{UNET}.non_ema.safetensors").unlink()
    adapterhub.convert(folder, tmp_path / "out.safetensors", to="single-file")
    assert {tensor.dtype for tensor in load_file(tmp_path / "out.safetensors").values()} == {
        np.dtype("f2"),
        np.dtype("f4"),
    }
