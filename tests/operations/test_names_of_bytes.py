"""Files whose names are no UTF-8, as old disks have them: what is written of such names is escaped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import adapterhub
from adapterhub import embeddings
from tests.operations import a1111_nets, merge_files
from tests.operations.checkpoint_files import saved, weights

NAME, TOLD = os.fsdecode(b"b\xe4r"), r"b\udce4r"  # "bär" in Latin-1


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "np") as file:
        return file.metadata()


def embedding(path: Path) -> Path:
    torch.save({"string_to_param": {"*": torch.ones(2, 768)}, "name": None}, path)
    return path


def hypernetwork(path: Path) -> Path:
    return a1111_nets.saved(path, a1111_nets.pairs([320], [1, 2, 1]), [1, 2, 1], without=("name",))


MADE = {
    "a model": (lambda path: saved(path, weights("sd1", "f2")), ".safetensors", "single-file"),
    "a LoRA": (merge_files.lora, ".safetensors", "kohya"),
    "an embedding": (embedding, ".pt", "kohya"),
    "a hypernetwork": (hypernetwork, ".pt", "safetensors"),
}


@pytest.mark.parametrize("what", MADE)
def test_what_is_converted_is_titled_by_such_a_name(what, tmp_path):
    make, suffix, layout = MADE[what]
    source, target = make(tmp_path / f"{NAME}{suffix}"), tmp_path / f"{NAME}-out.safetensors"
    done = adapterhub.convert(source, target, to=layout)
    assert metadata(target)["modelspec.title"] == TOLD
    assert done.source.path.endswith(f"{TOLD}{suffix}")
    assert done.target.sha256


def test_what_is_joined_names_where_it_came_from(tmp_path):
    source = merge_files.lora(tmp_path / f"{NAME}.safetensors")
    adapterhub.combine([(source, 1.0), (source, 0.5)], tmp_path / "a.safetensors")
    model = merge_files.base(tmp_path / f"{NAME}-model.safetensors")
    adapterhub.merge(model, [source], tmp_path / "b.safetensors")
    twice = [embedding(tmp_path / f"{NAME}.pt")] * 2
    embeddings.merge([(path, 1.0) for path in twice], tmp_path / "c.safetensors", to="kohya")
    found = [metadata(tmp_path / f"{name}.safetensors")["modelspec.merged_from"] for name in "abc"]
    assert found == [f"{TOLD}, {TOLD}", f"{TOLD}-model, {TOLD}", f"{TOLD}, {TOLD}"]
