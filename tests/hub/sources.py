"""Something of each kind to push."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.numpy import load_file, save_file

FIXTURES = Path(__file__).parents[2] / "fixtures"
LORA = FIXTURES / "kohya/sd1-lora.safetensors"
EMBEDDING = FIXTURES / "embedding/a1111/sd1.pt"
PAIR = FIXTURES / "embedding/kohya/sdxl.safetensors"
PEFT = FIXTURES / "peft/sd1-lora"


def copied(source: Path, folder: Path, name: str = "") -> Path:
    """A copy that a test may change."""
    target = folder / (name or source.name)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
    return target


def lora(
    folder: Path, metadata: dict[str, str] | None = None, scale: float = 1.0, name: str = "fox.safetensors"
) -> Path:
    """A Kohya LoRA of SD 1 with these fields."""
    tensors = {
        key: value if key.endswith("alpha") else (value * scale).astype(value.dtype)
        for key, value in load_file(LORA).items()
    }
    save_file(tensors, folder / name, metadata)
    return folder / name
