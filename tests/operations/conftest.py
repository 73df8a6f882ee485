"""Small SD 1 LoRAs in Kohya's layout, sound as they come, to be broken in one way by a test; and whole models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from adapterhub.documents import Validation
from adapterhub.operations.validate import validate
from tests.operations.checkpoint_files import full, saved, weights

BLOCKS = [f"down_blocks.{block}.attentions.{number}" for block in range(3) for number in range(2)] + [
    f"up_blocks.{block}.attentions.{number}" for block in range(1, 4) for number in range(3)
]
WIDTHS = {"down_blocks.0": 320, "down_blocks.1": 640, "down_blocks.2": 1280,
          "up_blocks.1": 1280, "up_blocks.2": 640, "up_blocks.3": 320}  # fmt: skip
PATHS = [f"{block}.transformer_blocks.0.attn2.to_k" for block in BLOCKS]
HEADS = ["lora_unet_" + path.replace(".", "_") for path in PATHS]
"""Fifteen modules whose input width of 768 is SD 1's alone."""


def sound(count: int = 1, rank: int = 4, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Pairs of constant factors and alpha = rank for the first `count` modules."""
    tensors = {}
    for path, head in list(zip(PATHS, HEADS, strict=True))[:count]:
        tensors[f"{head}.lora_down.weight"] = torch.full((rank, 768), 0.5, dtype=dtype)
        tensors[f"{head}.lora_up.weight"] = torch.full((WIDTHS[path[: path.index(".att")]], rank), 0.25, dtype=dtype)
        tensors[f"{head}.alpha"] = torch.tensor(float(rank), dtype=dtype)
    return tensors


@pytest.fixture
def modules() -> Callable[..., dict[str, torch.Tensor]]:
    """`modules(3)`: the tensors of a sound LoRA of three modules."""
    return sound


@pytest.fixture
def heads() -> list[str]:
    """Kohya's names of the modules that `modules` makes."""
    return HEADS


@pytest.fixture
def places() -> list[str]:
    """The canonical names of the modules that `modules` makes, as problems give them."""
    return [f"unet.{path}" for path in PATHS]


@pytest.fixture
def lora_file(tmp_path: Path) -> Callable[..., Path]:
    """`lora_file(tensors, metadata)`: them as a file."""

    def write(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> Path:
        path = tmp_path / "crafted.safetensors"
        save_file(dict(tensors), path, dict(metadata) if metadata else None)
        return path

    return write


@pytest.fixture
def checked(lora_file: Callable[..., Path]) -> Callable[..., Validation]:
    """`checked(tensors, metadata)`: what `validate` says of them."""
    return lambda tensors, metadata=None, base=None: validate(lora_file(tensors, metadata), base=base)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An SD 1 file with everything that stands beside weights."""
    return full(tmp_path / "model.safetensors")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """One with its weights alone."""
    return saved(tmp_path / "plain.safetensors", weights("sd1"))
