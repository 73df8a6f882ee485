"""Merges into folders: whatever the folder holds beside its weights goes along, as it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file

import adapterhub
from adapterhub.errors import MalformedFile, UsageError
from tests.operations.checkpoint_files import content, document, saved, weights
from tests.operations.merge_files import lora

CHECKER = {"a.weight": np.float16([1, 2]), "b": np.int64([[3]])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a safety checker, an extractor that is a document, an image encoder, and a field of its own in the index."""
    found = tmp_path / "folder"
    adapterhub.convert(saved(tmp_path / "model.safetensors", weights("sd1", "f2")), found, to="diffusers")
    index = document(found, "model_index.json")
    rows = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "requires_safety_checker": True,
            "feature_extractor": ["transformers", "CLIPImageProcessor"], "mine": 3,
            "image_encoder": ["transformers", "CLIPVisionModelWithProjection"]}  # fmt: skip
    for name in ("safety_checker", "image_encoder"):
        (found / name).mkdir()
        save_file(CHECKER, found / name / "model.safetensors")
        (found / name / "config.json").write_text('{"projection_dim":4}')
    (found / "feature_extractor").mkdir()
    (found / "feature_extractor/preprocessor_config.json").write_text('{"crop_size": 8}')
    (found / "model_index.json").write_text(json.dumps({**index, **rows}))
    return found


BESIDE = ("safety_checker", "image_encoder", "feature_extractor")


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_every_component_of_the_base_goes_along(folder, tmp_path):
    given = lora(tmp_path / "lora.safetensors")
    done = adapterhub.merge(folder, [given], tmp_path / "out", undo=tmp_path / "undo")
    assert names(tmp_path / "out") == names(folder)
    for path in folder.rglob("*.json"):
        name = str(path.relative_to(folder))
        assert document(tmp_path / "out", name) == document(folder, name)
    for name in ("safety_checker", "image_encoder"):
        weights_of = f"{name}/model.safetensors"
        assert content(tmp_path / "out" / weights_of) == content(folder / weights_of)
    sources = [entry.source[0] for entry in done.entries if entry.action == "copy"]
    assert f"{folder}:safety_checker/model.safetensors:a.weight" in sources
    adapterhub.unmerge(tmp_path / "out", [], tmp_path / "back", undo=tmp_path / "undo")
    assert names(tmp_path / "back") == names(folder)
    for path in folder.rglob("*"):
        there = tmp_path / "back" / path.relative_to(folder)
        if path.suffix == ".json" or (path.is_file() and path.parent.name not in BESIDE):
            assert there.read_bytes() == path.read_bytes()


def test_the_undo_file_does_not_lie_in_the_folder_that_is_written(folder, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="is the output itself, or lies in it"):
        adapterhub.merge(folder, [lora(tmp_path / "lora.safetensors")], tmp_path / "out", undo=tmp_path / "out/undo")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_component_that_is_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    (folder / "safety_checker/model.safetensors").rename(tmp_path / "outside.safetensors")
    (folder / "safety_checker/model.safetensors").symlink_to(tmp_path / "outside.safetensors")
    with pytest.raises(MalformedFile, match="link out of the folder"):
        adapterhub.merge(folder, [lora(tmp_path / "lora.safetensors")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_what_was_a_pickle_has_the_name_that_transformers_looks_for(folder, tmp_path, variant):
    """`WEIGHTS_NAME` and `SAFE_WEIGHTS_NAME` of transformers.utils; diffusers has one stem for both."""
    written = adapterhub.merge(folder, [lora(tmp_path / "lora.safetensors")], tmp_path / "out")
    for path in [path for path in folder.rglob("*.safetensors") if path.parent.name in ("unet", "vae", "text_encoder")]:
        stem = "pytorch_model" if path.stem == "model" else path.stem
        torch.save(load_file(path), path.with_name(f"{stem}{variant}.bin"))
        path.unlink()
    options = {"variant": variant.removeprefix(".")} if variant else {}
    done = adapterhub.merge(folder, [tmp_path / "lora.safetensors"], tmp_path / "again", **options)
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        (path,) = (tmp_path / "again" / part).glob("*.safetensors")
        assert path.name == f"{stem}{variant}.safetensors"
        assert content(path) == content(tmp_path / "out" / part / f"{stem}.safetensors")
    places = {
        f"{path.relative_to(tmp_path / 'again')}:{name}"
        for path in (tmp_path / "again").rglob("*.safetensors")
        for name in content(path)
    }
    told = [place for entry in done.entries for place in entry.target if entry.source[0].startswith(str(folder))]
    assert sorted(told) == sorted(places)
    assert written.modules == done.modules


def test_what_is_safetensors_already_keeps_its_name(folder, tmp_path):
    (folder / "text_encoder/model.safetensors").rename(folder / "text_encoder/pytorch_model.safetensors")
    adapterhub.merge(folder, [lora(tmp_path / "lora.safetensors")], tmp_path / "out", undo=tmp_path / "undo")
    adapterhub.unmerge(tmp_path / "out", [], tmp_path / "back", undo=tmp_path / "undo")
    assert names(tmp_path / "out") == names(tmp_path / "back") == names(folder)
