"""Metadata across a conversion: what is carried, what is made true, what readers filter by."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import adapterhub
import adapterhub.architectures as architectures
import adapterhub.metadata as metadata

UNET = {
    "sd1": ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", 320, 768),
    "sd2": ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", 320, 1024),
    "sdxl": ("lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k", 640, 2048),
    "sdxl-refiner": ("lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k", 768, 1280),
}


def kohya(path: Path, architecture: str, fields: dict[str, str]) -> Path:
    """A Kohya LoRA for one module of `architecture`."""
    head, rows, columns = UNET[architecture]
    tensors = {
        f"{head}.lora_down.weight": np.full((4, columns), 0.5, np.float16),
        f"{head}.lora_up.weight": np.full((rows, 4), 0.25, np.float16),
        f"{head}.alpha": np.array(2, np.float16),
    }
    save_file(tensors, path, fields)
    return path


def read(path: Path) -> tuple[dict[str, str], bytes]:
    """Metadata and data section, by the format's definition alone."""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + size]).get("__metadata__", {}), raw[8 + size :]


@pytest.mark.parametrize("layout", ["kohya-diffusers-names", "diffusers", "comfyui", "omi"])
def test_unknown_fields_are_carried_and_stored_hashes_are_true_of_the_new_file(tmp_path, layout):
    fields = {"ss_output_name": "style", "ss_tag_frequency": '{"a": {"b": 1}}', "ot_revision": "abc", "my own": "kept",
              "sshs_model_hash": "00" * 32, "sshs_legacy_hash": "deadbeef", "modelspec.title": "Mine"}  # fmt: skip
    source, target = kohya(tmp_path / "in.safetensors", "sdxl", fields), tmp_path / "out.safetensors"
    adapterhub.convert(source, target, to=layout)
    written, data = read(target)
    digest = hashlib.sha256(data).hexdigest()
    assert (written["sshs_model_hash"], written["modelspec.hash_sha256"]) == (digest, f"0x{digest}")
    assert "sshs_legacy_hash" not in written
    for name in ("ss_output_name", "ss_tag_frequency", "ot_revision", "my own", "modelspec.title"):
        assert written[name] == fields[name]


@pytest.mark.parametrize(
    ("architecture", "modelspec", "version", "v2"),
    [
        ("sd1", "stable-diffusion-v1/lora", "sd_v1", "False"),
        ("sd2", "stable-diffusion-v2-512/lora", "sd_v2", "True"),
        ("sdxl", "stable-diffusion-xl-v1-base/lora", "sdxl_base_v1-0", "False"),
        ("sdxl-refiner", "stable-diffusion-xl-v1-refiner/lora", "sdxl_refiner_v1-0", "False"),
    ],
)
def test_what_forge_and_a1111_filter_by_is_written(tmp_path, architecture, modelspec, version, v2):
    source, target = kohya(tmp_path / "in.safetensors", architecture, {}), tmp_path / "out.safetensors"
    adapterhub.convert(source, target, to="comfyui")
    written, _ = read(target)
    assert written["modelspec.architecture"] == modelspec
    assert (written["ss_base_model_version"], written["ss_v2"]) == (version, v2)
    assert {"modelspec.sai_model_spec", "modelspec.implementation", "modelspec.title"} <= written.keys()


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ({"ss_base_model_version": "sd_v2_v", "modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, True),
        ({"ss_base_model_version": "sd_v1", "modelspec.architecture": "stable-diffusion-v1/lora"}, False),
    ],
)
def test_a_claim_of_the_same_family_stays_and_an_untrue_one_is_replaced(told, kept):
    fields = metadata.renewed(told, architectures.get("sd2"), "title")
    assert ({name: fields[name] for name in told} == told) is kept


def test_lora_adapter_metadata_leaves_a_file_that_has_alpha_tensors_and_comes_back(tmp_path):
    """diffusers raises where both are given (loaders/lora_base.py)."""
    source = kohya(tmp_path / "in.safetensors", "sd1", {})
    middle, back, again = (tmp_path / f"{name}.safetensors" for name in ("middle", "back", "again"))
    adapterhub.convert(source, middle, to="diffusers")
    fields, data = read(middle)
    config = json.loads(fields["lora_adapter_metadata"]) | {"unet.init_lora_weights": "gaussian"}
    assert (config["unet.r"], config["unet.lora_alpha"]) == (4, 2)
    from safetensors import safe_open

    with safe_open(middle, "np") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    save_file(tensors, middle, {**fields, "lora_adapter_metadata": json.dumps(config)})
    adapterhub.convert(middle, back, to="kohya")
    assert "lora_adapter_metadata" not in read(back)[0]
    adapterhub.convert(back, again, to="diffusers")
    assert json.loads(read(again)[0]["lora_adapter_metadata"])["unet.init_lora_weights"] == "gaussian"
    assert read(again)[1] == data
