"""IA3 alone in a file, of the model's widths and of others: its numbers are as many as the rows or the columns of a weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import adapterhub
from adapterhub.errors import BrokenAdapter, NeedsBase

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0."
CONV = "down_blocks.0.resnets.0.conv1"
TEXT = "text_model.encoder.layers.0.self_attn.k_proj"
RANDOM = np.random.default_rng(5)


def numbers(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype("f4")


def of_lycoris(path: Path, widths: dict[str, int], prefix: str = "lora_unet_") -> Path:
    held = {}
    for module, width in widths.items():
        head = prefix + module.replace(".", "_")
        held |= {f"{head}.weight": numbers(width), f"{head}.on_input": np.array(module.endswith("ff.net.2"))}
    save_file(held, path)
    return path


def of_peft(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    save_file({f"base_model.model.{module}.ia3_l": numbers(*shape) for module, shape in shapes.items()}, path)
    return path


def codes(path: Path) -> set[str]:
    return {problem.code for problem in adapterhub.inspect(path).problems}


def test_ia3_of_lycoris_of_other_widths_is_that_of_a_smaller_model(tmp_path: Path) -> None:
    names = [BLOCK + name for name in ("attn1.to_k", "attn2.to_v", "ff.net.2")]
    true = of_lycoris(tmp_path / "a.safetensors", dict(zip(names, (320, 320, 1280), strict=True)))
    tiny = of_lycoris(tmp_path / "b.safetensors", dict(zip(names, (32, 32, 128), strict=True)))
    assert (codes(true), codes(tiny)) == (
        {"ambiguous-architecture"}, {"ambiguous-architecture", "other-widths"},
    )  # fmt: skip
    assert adapterhub.scale(tiny, tmp_path / "c.safetensors", 0.5).max_error < 1e-14


def test_one_of_another_width_among_others_does_not_fit(tmp_path: Path) -> None:
    path = of_lycoris(tmp_path / "a.safetensors",
                      {BLOCK + "attn1.to_k": 320, BLOCK + "attn1.to_v": 320, BLOCK + "attn2.to_k": 64})  # fmt: skip
    assert "shape-mismatch" in codes(path)
    with pytest.raises(BrokenAdapter, match=r"attn2\.to_k: does not fit Stable Diffusion"):
        adapterhub.scale(path, tmp_path / "b.safetensors", 0.5)


def test_ia3_of_a_text_encoder_tells_which_it_is(tmp_path: Path) -> None:
    assert adapterhub.inspect(of_lycoris(tmp_path / "a.safetensors", {TEXT: 1024}, "lora_te_")).architecture == "sd2"
    assert adapterhub.inspect(of_lycoris(tmp_path / "a.safetensors", {TEXT: 768}, "lora_te_")).architecture == "sd1"


def test_convolutions_of_other_widths_beside_others_are_no_damage(tmp_path: Path) -> None:
    shapes = {BLOCK + "attn1.to_k": (32, 1), CONV: (1, 32, 1, 1), CONV.replace("conv1", "conv2"): (1, 32, 1, 1)}
    path = of_peft(tmp_path / "a.safetensors", shapes)
    assert codes(path) == {"ambiguous-architecture", "other-widths"}
    with pytest.raises(NeedsBase, match="scales the bias too"):  # along the output, as PEFT's usual
        adapterhub.scale(path, tmp_path / "b.safetensors", 0.5)
