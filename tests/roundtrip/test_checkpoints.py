"""A single file becomes a folder and comes back the same, whatever stands beside its weights; so does a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

import adapterhub
from adapterhub import architectures
from tests.operations.checkpoint_files import (
    FOREIGN,
    MARKERS,
    METADATA,
    OPEN_CLIP,
    POSITIONS,
    Tensors,
    averages,
    content,
    folder_content,
    positions,
    saved,
    schedule,
    unused_text,
    weights,
)

BESIDE: dict[str, Callable[[str], Tensors]] = {
    "averages": lambda name: averages(weights(name)),
    "short averages": lambda name: averages(weights(name), "model.diffusion_model."),
    "schedule": lambda name: schedule(),
    "unused text": lambda name: unused_text(name) if name in OPEN_CLIP else {},
    "position ids": lambda name: positions(name) if name in POSITIONS else {},
    "markers": lambda name: MARKERS,
    "foreign": lambda name: FOREIGN,
}


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "np") as file:
        return file.metadata() or {}


@settings(max_examples=6, deadline=None)
@given(
    name=st.sampled_from(architectures.NAMES),
    extras=st.sets(st.sampled_from(sorted(BESIDE))),
    channels=st.sampled_from([4, 9]),
    dtype=st.sampled_from(["f2", "f4"]),
    told=st.booleans(),
)
def test_a_single_file_comes_back_the_same(name, extras, channels, dtype, told):
    if name == "sdxl-refiner":
        channels = 4
    tensors = weights(name, dtype, channels)
    for extra in extras:
        tensors |= BESIDE[extra](name)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = saved(folder / "a.safetensors", tensors, METADATA if told else None)
        there = adapterhub.convert(source, folder / "there", to="diffusers")
        back = adapterhub.convert(folder / "there", folder / "a2.safetensors", to="single-file", verify=True)
        assert (there.exactness, back.exactness, back.max_error) == ("bit-exact", "bit-exact", 0.0)
        assert content(folder / "a2.safetensors") == content(source)
        assert {place for entry in there.entries for place in entry.source} == tensors.keys()
        assert not told or METADATA.items() <= metadata(folder / "a2.safetensors").items()


@pytest.mark.parametrize("name", ["sd2", "sdxl-refiner"])
def test_the_weights_of_a_folder_come_back_the_same(name, tmp_path):
    first = saved(tmp_path / "a.safetensors", weights(name, "f2"))
    adapterhub.convert(first, tmp_path / "folder", to="diffusers")
    adapterhub.convert(tmp_path / "folder", tmp_path / "b.safetensors", to="single-file")
    adapterhub.convert(tmp_path / "b.safetensors", tmp_path / "again", to="diffusers")
    found = folder_content(tmp_path / "again")
    assert found == folder_content(tmp_path / "folder")
    assert set(found) == {
        f"{part}.{path}.{kind}" for part in architectures.get(name).weights
        for path, kind, _ in architectures.get(name).tensors(part)
    }  # fmt: skip


def test_what_folders_have_no_place_for_lies_in_a_file_that_no_reader_opens(tmp_path):
    tensors = {**weights("sd2"), **unused_text("sd2"), **positions("sd2"), **schedule()}
    adapterhub.convert(saved(tmp_path / "a.safetensors", tensors), tmp_path / "folder", to="diffusers")
    kept = content(tmp_path / "folder" / "adapterhub_aside.safetensors")
    assert kept.keys() == unused_text("sd2").keys() | positions("sd2").keys() | schedule().keys()
    assert all(place.startswith("text_model.") for place in content(tmp_path / "folder/text_encoder/model.safetensors"))


def torch_tree(tensors: Tensors) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}


WRAPPED: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "flat": lambda state: state,
    "wrapped": lambda state: {"state_dict": state},
    "of Lightning": lambda state: {
        "state_dict": state, "epoch": 3, "global_step": 470000, "pytorch-lightning_version": "1.4.2",
        "optimizer_states": [{"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-5}]}],
        "lr_schedulers": [{"last_epoch": 3}], "callbacks": {"best": None},
    },
    "of DeepSpeed": lambda state: {
        "module": state, "buffer_names": [], "optimizer": None, "lr_scheduler": None, "ds_version": "0.16.4",
        "param_shapes": {name: tensor.shape for name, tensor in state.items()}, "global_steps": 7,
    },
    "of a script": lambda state: {"model": state, "optimizer": {"state": {0: torch.ones(2)}}, "step": 3},
    "of a script, twice": lambda state: {"model": {"module": state}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("wrap", "new"), [*((name, True) for name in WRAPPED), ("of Lightning", False), ("of DeepSpeed", False)]
)
def test_a_ckpt_becomes_the_same_safetensors_file(wrap, new, tmp_path):
    tensors = {**weights("sd1", "f2"), **schedule(), **positions("sd1")}
    state = {name: tensor.clone() for name, tensor in torch_tree(tensors).items()}
    torch.save(WRAPPED[wrap](state), tmp_path / "a.ckpt", _use_new_zipfile_serialization=new)
    done = adapterhub.convert(tmp_path / "a.ckpt", tmp_path / "b.safetensors", to="single-file")
    assert done.exactness == "bit-exact"
    found = content(tmp_path / "b.safetensors")
    wanted = content(saved(tmp_path / "c.safetensors", tensors))
    assert {place: found[place] for place in wanted} == wanted
