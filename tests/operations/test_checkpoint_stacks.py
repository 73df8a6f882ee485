"""Projections that a single file has in one tensor and a folder in three: what becomes of those that differ, or lack one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import adapterhub
from adapterhub.errors import BrokenAdapter
from tests.operations.checkpoint_files import Tensors, content, saved, weights

LAYER = "text_model.encoder.layers.3.self_attn"
Q, K, V = (f"{LAYER}.{part}_proj.weight" for part in "qkv")
STACK = "cond_stage_model.model.transformer.resblocks.3.attn.in_proj_"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """SD 2, whose text encoder has its projections in one tensor in a single file."""
    adapterhub.convert(saved(tmp_path / "model.safetensors", weights("sd2")), tmp_path / "folder", to="diffusers")
    return tmp_path / "folder"


def changed(folder: Path, tensors: Tensors) -> None:
    """Puts `tensors` into the text encoder; one of no size is taken out."""
    path = folder / "text_encoder/model.safetensors"
    saved(path, {name: tensor for name, tensor in (load_file(path) | tensors).items() if tensor.size})


def problems(folder: Path) -> list[tuple[str, str, str]]:
    return [(problem.severity, problem.code, problem.where) for problem in adapterhub.validate(folder).problems]


def test_dtypes_that_differ_in_one_stack_are_told_and_refused_until_a_dtype_is_asked_for(folder, cli, tmp_path):
    changed(folder, {Q: np.ones((2, 2), "f2")})
    assert ("warning", "mixed-dtypes", f"text_encoder.{LAYER}.q_proj") in problems(folder)
    out = tmp_path / "out.safetensors"
    done = cli("convert", folder, "-o", out, "--to", "single-file")
    assert (done.status, out.exists()) == (3, False)
    for said in (f"text_encoder.{Q} is F16, text_encoder.{K} is F32, text_encoder.{V} is F32", "--dtype"):
        assert said in done.err
    adapterhub.convert(folder, out, to="single-file", dtype="fp32")
    assert load_file(out)[f"{STACK}weight"].shape == (6, 2)
    assert adapterhub.convert(folder, tmp_path / "copy", to="diffusers").exactness == "bit-exact"


@pytest.mark.parametrize("shape", [(2, 3), (4, 2)], ids=str)
def test_shapes_that_differ_in_one_stack_are_an_error(shape, folder, tmp_path):
    changed(folder, {Q: np.ones(shape, "f4")})
    assert ("error", "shape-mismatch", f"text_encoder.{LAYER}.q_proj") in problems(folder)
    with pytest.raises(BrokenAdapter, match=r"q_proj: \[\d, \d\], where the projections beside it have \[2, 2\]"):
        adapterhub.convert(folder, tmp_path / "out.safetensors", to="single-file", dtype="fp16")


def test_what_stands_in_one_tensor_with_something_missing_is_left_out_and_listed(folder, tmp_path):
    changed(folder, {Q: np.zeros(0)})
    with pytest.raises(BrokenAdapter, match="1 of 372 tensors are missing"):
        adapterhub.convert(folder, tmp_path / "out.safetensors", to="single-file")
    done = adapterhub.convert(folder, tmp_path / "out.safetensors", to="single-file", allow_loss=True)
    lost = {place: entry.reason for entry in done.entries if entry.action == "drop" for place in entry.source}
    reason = "single-file has it in one tensor with others, which are missing"
    assert lost == {f"text_encoder/model.safetensors:{name}": reason for name in (K, V)}
    assert done.exactness == "partial"
    before, after = content(tmp_path / "model.safetensors"), content(tmp_path / "out.safetensors")
    assert before.keys() - after.keys() == {f"{STACK}weight"}
    assert after[f"{STACK}bias"] == before[f"{STACK}bias"]
