"""`--as lora` and `--as full`, with and without the base. Expected values are float64 formulas."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import adapterhub
from adapterhub.errors import LossyConversion, NeedsBase
from tests.operations.one_module import HEAD, LDM, MODULE, change, lora, normal


def test_a_full_difference_is_truncated_as_well_as_its_singular_values_allow(tmp_path):
    source, target = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    full = normal(320, 320, dtype=np.float32)
    save_file({f"{HEAD}.diff": full}, source)
    done = adapterhub.convert(source, target, to="diffusers", as_algorithm="lora", rank=32)
    tensors = {name: value.astype(np.float64) for name, value in load_file(target).items()}
    found = tensors[f"unet.{MODULE}.lora_B.weight"] @ tensors[f"unet.{MODULE}.lora_A.weight"]
    tail = np.linalg.svd(full.astype(np.float64), compute_uv=False)[32:]
    assert np.linalg.norm(found - full) == pytest.approx(np.linalg.norm(tail), rel=1e-6)
    assert done.exactness == "approximate"
    assert done.max_error == pytest.approx(np.abs(found - full).max() / np.abs(full).max(), rel=1e-6)


def dora(path: Path) -> Path:
    """A LyCORIS DoRA of one module, on the output axis."""
    lora(path)
    save_file({**load_file(path), f"{HEAD}.dora_scale": 1 + np.abs(normal(320, 1))}, path)
    return path


def single_file(folder: Path, weight: np.ndarray) -> Path:
    save_file({f"{LDM}.weight": weight}, folder / "base.safetensors")
    return folder / "base.safetensors"


def diffusers_folder(folder: Path, weight: np.ndarray) -> Path:
    (folder / "base" / "unet").mkdir(parents=True)
    (folder / "base" / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}))  # fmt: skip
    (folder / "base" / "unet" / "config.json").write_text("{}")
    save_file({f"{MODULE}.weight": weight}, folder / "base" / "unet" / "diffusion_pytorch_model.safetensors")
    return folder / "base"


@pytest.mark.parametrize("model", [single_file, diffusers_folder])
def test_dora_becomes_a_full_difference_on_the_base(tmp_path, model):
    source, target, weight = dora(tmp_path / "in.safetensors"), tmp_path / "out.safetensors", normal(320, 320)
    with pytest.raises(NeedsBase, match="--base"):
        adapterhub.convert(source, target, to="kohya", as_algorithm="full")
    done = adapterhub.convert(source, target, to="kohya", as_algorithm="full", base=model(tmp_path, weight))
    moved = weight.astype(np.float64) + change(source)
    scale = load_file(source)[f"{HEAD}.dora_scale"].astype(np.float64)
    expected = scale * moved / np.linalg.norm(moved, axis=1, keepdims=True) - weight
    np.testing.assert_allclose(load_file(target)[f"{HEAD}.diff"], expected, rtol=0, atol=1e-6)
    assert done.exactness == "exact"
    assert done.max_error < 1e-6


def test_a_convolution_with_a_core_becomes_a_plain_one(tmp_path):
    head, path = "lora_unet_down_blocks_0_resnets_0_conv1", "unet.down_blocks.0.resnets.0.conv1"
    source, target = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    down, mid, up = normal(4, 320, 1, 1), normal(4, 4, 3, 3), normal(320, 4, 1, 1)
    save_file({f"{head}.lora_down.weight": down, f"{head}.lora_mid.weight": mid, f"{head}.lora_up.weight": up}, source)
    with pytest.raises(LossyConversion, match="--as lora"):
        adapterhub.convert(source, target, to="diffusers")
    done = adapterhub.convert(source, target, to="diffusers", as_algorithm="lora")
    tensors = {name: value.astype(np.float64) for name, value in load_file(target).items()}
    found = np.einsum("or,rikl->oikl", tensors[f"{path}.lora_B.weight"][..., 0, 0], tensors[f"{path}.lora_A.weight"])
    factors = [value.astype(np.float64) for value in (up[..., 0, 0], mid, down[..., 0, 0])]
    expected = np.einsum("os,stkl,ti->oikl", *factors)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    assert done.exactness == "exact"


def test_a_lora_is_truncated_to_a_lower_rank(tmp_path):
    source, target = lora(tmp_path / "in.safetensors"), tmp_path / "out.safetensors"
    done = adapterhub.convert(source, target, to="kohya", as_algorithm="lora", rank=2)
    tail = np.linalg.svd(change(source), compute_uv=False)[2:]
    assert load_file(target)[f"{HEAD}.lora_down.weight"].shape == (2, 320)
    assert np.linalg.norm(change(target) - change(source)) == pytest.approx(np.linalg.norm(tail), rel=1e-5)
    assert done.exactness == "approximate"


def test_a_plain_lora_stays_as_it_is(tmp_path):
    source, target = lora(tmp_path / "in.safetensors"), tmp_path / "out.safetensors"
    done = adapterhub.convert(source, target, to="kohya", as_algorithm="lora")
    assert done.summary["copy"] == 3
    assert done.exactness == "bit-exact"


def test_dora_becomes_a_lora_of_a_rank_on_the_base(tmp_path):
    source, target, weight = dora(tmp_path / "in.safetensors"), tmp_path / "out.safetensors", normal(320, 320)
    base = single_file(tmp_path, weight)
    adapterhub.convert(source, target, to="kohya", as_algorithm="lora", rank=8, base=base)
    moved = weight.astype(np.float64) + change(source)
    scale = load_file(source)[f"{HEAD}.dora_scale"].astype(np.float64)
    whole = scale * moved / np.linalg.norm(moved, axis=1, keepdims=True) - weight
    tail = np.linalg.svd(whole, compute_uv=False)[8:]
    assert not [name for name in load_file(target) if name.endswith("dora_scale")]
    assert np.linalg.norm(change(target) - whole) == pytest.approx(np.linalg.norm(tail), rel=1e-5)


def test_what_is_full_stays_as_it_is_and_a_replacement_becomes_a_difference(tmp_path):
    source, target, weight = tmp_path / "in.safetensors", tmp_path / "out.safetensors", normal(320, 320)
    full, other = normal(320, 320), HEAD.replace("to_q", "to_k")
    replacement = normal(320, 320)
    save_file({f"{HEAD}.diff": full, f"{other}.set_weight": replacement, f"{other}.diff_b": full[0]}, source)
    with pytest.raises(NeedsBase):
        adapterhub.convert(source, target, to="kohya", as_algorithm="full")
    base = tmp_path / "base.safetensors"
    save_file({f"{LDM.replace('to_q', 'to_k')}.weight": weight}, base)
    adapterhub.convert(source, target, to="kohya", as_algorithm="full", base=base)
    tensors = load_file(target)
    np.testing.assert_array_equal(tensors[f"{HEAD}.diff"], full)
    expected = replacement.astype(np.float64) - weight.astype(np.float64)
    np.testing.assert_allclose(tensors[f"{other}.diff"], expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(tensors[f"{other}.diff_b"], full[0])
