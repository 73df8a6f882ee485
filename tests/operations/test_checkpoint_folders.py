"""Folders of whole models: what their documents come from, what else is in them, and what becomes of that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import adapterhub
from tests.operations.checkpoint_files import content, saved, weights

VOCABULARY = {"vocab": {"cat</w>": 1, "dog</w>": 0}, "type": "BPE"}


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return saved(tmp_path / "plain.safetensors", weights("sd1"))


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    adapterhub.convert(plain, tmp_path / "folder", to="diffusers")
    return tmp_path / "folder"


def document(folder: Path, name: str):
    return json.loads((folder / name).read_text("utf-8"))


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
