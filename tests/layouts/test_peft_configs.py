"""Where PEFT and diffusers keep alpha: rank and alpha patterns, rsLoRA, and what in a config is refused."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import adapterhub
from adapterhub.errors import BrokenAdapter

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
Q, K = f"{BLOCK}.attn1.to_q", f"{BLOCK}.attn2.to_k"
FLAT = {path: f"lora_unet_{path.replace('.', '_')}" for path in (Q, K)}


def pairs(before: str) -> dict[str, np.ndarray]:
    """Two modules of rank 4 under PEFT's names."""
    return {
        f"{before}{path}.lora_{side}.weight": np.full(shape, 0.5, np.float16)
        for path, columns in ((Q, 320), (K, 768))
        for side, shape in (("A", (4, columns)), ("B", (320, 4)))
    }


def in_a_folder(folder: Path, config: Mapping[str, Any]) -> Path:
    place = folder / "peft"
    place.mkdir()
    save_file(pairs("base_model.model."), place / "adapter_model.safetensors")
    (place / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, **config}))
    return place


def in_metadata(folder: Path, config: Mapping[str, Any], component: str = "unet.") -> Path:
    told = {f"{component}{name}": value for name, value in {"r": 4, **config}.items()}
    save_file(pairs(component), folder / "in.safetensors", metadata={"lora_adapter_metadata": json.dumps(told)})
    return folder / "in.safetensors"


def without_prefix(folder: Path, config: Mapping[str, Any]) -> Path:
    """As `save_lora_adapter` writes it."""
    return in_metadata(folder, config, component="")


def alphas(source: Path, folder: Path) -> dict[str, float]:
    adapterhub.convert(source, folder / "out.safetensors", to="kohya")
    tensors = load_file(folder / "out.safetensors")
    return {path: float(tensors[f"{head}.alpha"]) for path, head in FLAT.items()}


SAID = {
    "one alpha": ({"lora_alpha": 2}, {Q: 2, K: 2}),
    "alpha that is no integer": ({"lora_alpha": 1.5}, {Q: 1.5, K: 1.5}),
    "a pattern by the whole path": ({"lora_alpha": 2, "alpha_pattern": {K: 8}}, {Q: 2, K: 8}),
    "a pattern by the end of the path": ({"lora_alpha": 2, "alpha_pattern": {"attn2.to_k": 8}}, {Q: 2, K: 8}),
    "a pattern that is no whole name": ({"lora_alpha": 2, "alpha_pattern": {"2.to_k": 8, "o_k": 9}}, {Q: 2, K: 2}),
    "the first pattern wins": ({"lora_alpha": 2, "alpha_pattern": {"to_k": 8, K: 16}}, {Q: 2, K: 8}),
    "a pattern with its dots escaped": ({"lora_alpha": 2, "alpha_pattern": {r"attn1\.to_q": 8}}, {Q: 8, K: 2}),
    "a pattern for a whole path": ({"lora_alpha": 2, "alpha_pattern": {"^attn1.to_q": 8, f"^{K}": 16}}, {Q: 2, K: 16}),
    "rsLoRA": ({"lora_alpha": 2, "use_rslora": True}, {Q: 4, K: 4}),
    "rsLoRA with a pattern": ({"lora_alpha": 2, "use_rslora": True, "alpha_pattern": {"to_k": 3}}, {Q: 4, K: 6}),
    "no alpha": ({}, {Q: 4, K: 4}),
}  # fmt: skip


@pytest.mark.parametrize("stored", [in_a_folder, in_metadata, without_prefix])
@pytest.mark.parametrize(("config", "wanted"), SAID.values(), ids=SAID.keys())
def test_alpha_is_read_from_where_it_is_kept(config, wanted, stored, tmp_path):
    assert alphas(stored(tmp_path, config), tmp_path) == wanted


def test_rslora_of_a_rank_that_is_no_square_is_rounded_once(tmp_path):
    tensors = {name: (array[:3] if "lora_A" in name else array[:, :3]).copy() for name, array in pairs("unet.").items()}
    told = json.dumps({"unet.r": 3, "unet.lora_alpha": 1, "unet.use_rslora": True})
    save_file(tensors, tmp_path / "in.safetensors", metadata={"lora_adapter_metadata": told})
    stored = alphas(tmp_path / "in.safetensors", tmp_path)
    assert stored == dict.fromkeys((Q, K), stored[Q])
    assert stored[Q] == pytest.approx(math.sqrt(3), abs=2**-24)


REFUSED = {
    "a pattern that is a regular expression": {"lora_alpha": 2, "alpha_pattern": {"(a+)+$": 8}},
    "an alpha that is a text": {"lora_alpha": "2"},
    "a pattern whose alpha is a text": {"lora_alpha": 2, "alpha_pattern": {"to_k": "8"}},
}


@pytest.mark.parametrize("stored", [in_a_folder, in_metadata])
@pytest.mark.parametrize("config", REFUSED.values(), ids=REFUSED.keys())
def test_a_config_that_cannot_be_trusted_is_refused(
    config: Mapping[str, Any], stored: Callable[..., Path], tmp_path: Path
):
    source, out = stored(tmp_path, config), tmp_path / "out.safetensors"
    with pytest.raises(BrokenAdapter):
        adapterhub.convert(source, out, to="kohya")
    assert not out.exists()


@pytest.mark.parametrize("text", ["{", "[]", "1", '"a"', "[" * 100_000])
def test_metadata_of_diffusers_that_is_no_object_is_refused(text, tmp_path):
    source = tmp_path / "in.safetensors"
    save_file(pairs("unet."), source, metadata={"lora_adapter_metadata": text})
    with pytest.raises(BrokenAdapter, match="lora_adapter_metadata is not a JSON object"):
        adapterhub.convert(source, tmp_path / "out.safetensors", to="kohya")


def test_a_config_of_another_component_does_not_count(tmp_path):
    source = in_metadata(tmp_path, {})
    told = json.dumps({"text_encoder.r": 4, "text_encoder.lora_alpha": 1})
    save_file(pairs("unet."), source, metadata={"lora_adapter_metadata": told})
    assert alphas(source, tmp_path) == {Q: 4, K: 4}


def test_patterns_apply_as_in_peft(tmp_path):
    """peft/utils/other.py, get_pattern_key."""
    from peft.utils.other import get_pattern_key

    patterns = [
        "to_q",
        "attn1.to_q",
        f"^{Q}",
        "^attn1.to_q",
        "o_q",
        Q,
        "attn1",
        "1.to_q",
        r"attn2\.to_k",
        "attn2.to_k",
        f"^{BLOCK}",
    ]
    for number, pattern in enumerate(patterns):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = alphas(in_a_folder(folder, {"lora_alpha": 2, "alpha_pattern": {pattern: 8}}), folder)
        assert found == {path: 8 if get_pattern_key([pattern], path) == pattern else 2 for path in (Q, K)}, pattern
