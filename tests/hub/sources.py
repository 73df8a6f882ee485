"""Something of each kind to push."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save, save_file

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


INDEX = "model.safetensors.index.json"


def in_shards(tensors: Mapping[str, np.ndarray], stem: str = "model") -> dict[str, bytes]:
    """These tensors in two shards, and their index."""
    names = [f"{stem}-0000{number}-of-00002.safetensors" for number in (1, 2)]
    keys = sorted(tensors)
    placed = {key: names[key not in keys[: len(keys) // 2]] for key in keys}
    parts = {name: save({key: tensors[key] for key in keys if placed[key] == name}) for name in names}
    index = {"metadata": {"total_size": sum(one.nbytes for one in tensors.values())}, "weight_map": placed}
    return parts | {f"{stem}.safetensors.index.json": json.dumps(index).encode()}


def sharded(folder: Path) -> Path:
    """A folder with the LoRA in shards."""
    folder.mkdir()
    for name, data in in_shards(load_file(LORA)).items():
        (folder / name).write_bytes(data)
    return folder


def content_of(folder: Path, start: str = "") -> dict[str, bytes]:
    """Every file of a folder, by its name, below `start`."""
    return {
        f"{start}{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip
