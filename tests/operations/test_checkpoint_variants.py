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


@pytest.mark.parametrize("command", ["convert", "inspect", "validate", "merge"])
def test_weights_in_several_variants_are_a_question_that_can_be_answered(folder, tmp_path, cli, sd1_lora, command):
    asked = {"convert": ["-o", tmp_path / "out", "--prune"], "merge": [sd1_lora, "-o", tmp_path / "out"]}.get(
        command, []
    )
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
