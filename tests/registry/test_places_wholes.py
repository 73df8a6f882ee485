"""Folders that are one thing, and what stands beside it; and that the reader takes each thing that is found."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adapterhub import files as adapterhub_files
from tests.registry.trees import files, found, link, names, plant, write

FIXTURES = Path(__file__).parents[2] / "fixtures"
PEFT = ("adapter_config.json", "adapter_model.safetensors")


def test_a_peft_folder_is_one_thing_and_the_checkpoints_in_it_are_others(tmp_path):
    plant(tmp_path, *(f"out/{name}" for name in (*PEFT, "optimizer.pt", "README.md")))
    plant(tmp_path, *(f"out/checkpoint-5/{name}" for name in PEFT))
    things = found(tmp_path)
    assert names(things, tmp_path) == ["out", "out/optimizer.pt", "out/checkpoint-5"]
    assert sorted(files(things[0])) == sorted(PEFT)


def test_peft_folders_called_by_components_are_one_adapter(tmp_path):
    plant(tmp_path, *(f"a/{part}/{name}" for part in ("text_encoder", "unet") for name in PEFT))
    [thing] = found(tmp_path)
    assert thing.path == tmp_path / "a"
    assert sorted(files(thing)) == sorted(f"{part}/{name}" for part in ("text_encoder", "unet") for name in PEFT)


def test_peft_folders_called_by_styles_are_several(tmp_path):
    plant(tmp_path, *(f"{style}/{name}" for style in ("cat", "dog") for name in PEFT))
    assert names(found(tmp_path), tmp_path) == ["cat", "dog"]


@pytest.mark.parametrize("alone", ["adapter_config.json", "adapter_model.bin"])
def test_half_a_peft_folder_is_what_its_files_are(tmp_path, alone):
    assert names(found(plant(tmp_path, alone)), tmp_path) == [alone] * alone.endswith(".bin")


def test_the_two_files_of_an_embedding_of_sdxl_are_one(tmp_path):
    plant(tmp_path, "e/learned_embeds.safetensors", "e/learned_embeds_2.safetensors", "f/learned_embeds.bin")
    things = found(tmp_path)
    assert names(things, tmp_path) == ["e", "f/learned_embeds.bin"]
    assert files(things[0]) == ["learned_embeds.safetensors", "learned_embeds_2.safetensors"]


class TestPipelines:
    PARTS = (
        "unet/diffusion_pytorch_model",
        "vae/diffusion_pytorch_model",
        "text_encoder/model",
        "safety_checker/model",
    )

    def test_one_is_a_thing_of_the_files_that_are_read(self, tmp_path):
        plant(tmp_path, "p/model_index.json", "p/scheduler/scheduler_config.json", "p/unet/config.json")
        plant(
            tmp_path, *(f"p/{part}{ending}" for part in self.PARTS for ending in (".safetensors", ".fp16.safetensors"))
        )
        [thing] = found(tmp_path)
        assert thing.path == tmp_path / "p"
        assert sorted(files(thing)) == [
            "model_index.json", "scheduler/scheduler_config.json", "text_encoder/model.safetensors", "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
        ]  # fmt: skip

    def test_shards_of_a_component_belong_to_it(self, tmp_path):
        stem = "p/unet/diffusion_pytorch_model"
        shards = [f"{stem}-0000{number}-of-00002.safetensors" for number in (1, 2)]
        plant(tmp_path, "p/model_index.json", f"{stem}.safetensors.index.json", *shards)
        [thing] = found(tmp_path)
        assert [name.removeprefix("unet/") for name in files(thing)[1:]] == [
            "diffusion_pytorch_model.safetensors.index.json", *(Path(shard).name for shard in shards)
        ]  # fmt: skip

    def test_a_checkpoint_beside_it_is_another_thing(self, tmp_path):
        plant(tmp_path, "p/model_index.json", "p/unet/diffusion_pytorch_model.bin", "p/v1-5-pruned.safetensors")
        assert names(found(tmp_path), tmp_path) == ["p", "p/v1-5-pruned.safetensors"]

    def test_a_component_may_be_a_link(self, tmp_path):
        plant(tmp_path, "far/diffusion_pytorch_model.bin", "p/model_index.json")
        link(tmp_path / "p/unet", tmp_path / "far")
        [thing] = found(tmp_path / "p")
        assert files(thing) == ["model_index.json", "unet/diffusion_pytorch_model.bin"]


def test_every_thing_that_is_found_can_be_read(tmp_path):
    """Of the fixtures, of which each is well formed, and of what only folders are."""
    tensor = {"a": np.zeros(2, np.float32)}
    for name in ("peft/adapter_model", "two/learned_embeds", "two/learned_embeds_2", "m-00001-of-00001"):
        path = tmp_path / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file(tensor, path)
    write(tmp_path / "peft/adapter_config.json", "{}")
    write(tmp_path / "m.safetensors.index.json", json.dumps({"weight_map": {"a": "m-00001-of-00001.safetensors"}}))
    things = found(tmp_path, FIXTURES)
    assert names(things[:3], tmp_path) == ["m.safetensors.index.json", "peft", "two"]
    assert len(things) > 40
    for thing in things:
        package = adapterhub_files.read(thing.path)
        there = {file.path for file in thing.files}
        assert {source.path for source in package.sources} <= {path.resolve() for path in there} | there
        for source in package.sources:
            source.close()
