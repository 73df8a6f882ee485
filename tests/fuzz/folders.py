"""Folders whose weights are sound, and whose document comes from a fuzzer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

FIRST, SECOND = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
PIPELINE = ("unet", "vae", "text_encoder")


def _save(path: Path, *names: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    save_file({name: np.zeros(1, np.float32) for name in names}, path)
    return path


def shards(folder: Path) -> tuple[Path, Path]:
    """An index of two shards, with the tensors a and c, and b."""
    _save(folder / FIRST, "a", "c")
    _save(folder / SECOND, "b")
    index = folder / "model.safetensors.index.json"
    return index, index


def pipeline(folder: Path) -> tuple[Path, Path]:
    """A pipeline of three components."""
    for name in PIPELINE:
        _save(folder / name / "diffusion_pytorch_model.safetensors", "a")
    return folder, folder / "model_index.json"


def peft(folder: Path) -> tuple[Path, Path]:
    """A LoRA of PEFT, and its configuration."""
    _save(folder / "adapter_model.safetensors", "a")
    return folder, folder / "adapter_config.json"
