"""What tests of conversions build: LoRAs of one module, and ΔW by the formula in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

MODULE = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
HEAD = "lora_unet_" + MODULE.replace(".", "_")
LDM = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
TEXT = "text_model.encoder.layers.0.self_attn.q_proj"
RNG = np.random.default_rng(7)


def normal(*shape: int, dtype: type = np.float16) -> np.ndarray:
    """Random numbers."""
    return RNG.standard_normal(shape).astype(dtype)


def lora(path: Path, *, alpha: float | None = 2, rank: int = 4, head: str = HEAD, dtype: type = np.float16) -> Path:
    """A Kohya LoRA of one 320×320 module."""
    tensors = {
        f"{head}.lora_down.weight": normal(rank, 320, dtype=dtype),
        f"{head}.lora_up.weight": normal(320, rank, dtype=dtype),
    }
    if alpha is not None:
        tensors[f"{head}.alpha"] = np.array(alpha, dtype)
    save_file(tensors, path)
    return path


def change(path: Path, head: str = HEAD) -> np.ndarray:
    """alpha / r · B · A in float64."""
    tensors = {name: value.astype(np.float64) for name, value in load_file(path).items()}
    down, up = tensors[f"{head}.lora_down.weight"], tensors[f"{head}.lora_up.weight"]
    return float(tensors.get(f"{head}.alpha", len(down))) / len(down) * up @ down
