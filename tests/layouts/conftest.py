"""Small LoRA files with true names and shapes, on disk and in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import adapterhub.layouts as layouts
from adapterhub.files import File, Package
from adapterhub.layouts.identity import Identity
from adapterhub.tensors import LazyTensor, Shape

Weights = Mapping[str, Shape]
RANK = 2


def pair(weight: Shape) -> tuple[Shape, Shape]:
    """The shapes of down and up for a weight."""
    rows, columns, *kernel = weight
    return (RANK, columns, *kernel), (rows, RANK, *[1] * len(kernel))


@pytest.fixture
def identified() -> Callable[..., Identity]:
    """`identified({head: weight})`: what a file of LoRA pairs is taken for; nothing but shapes is there to be read."""

    def call(weights: Weights, metadata: Mapping[str, str] | None = None) -> Identity:
        tensors = {}
        for head, weight in weights.items():
            for suffix, shape in zip((".lora_down.weight", ".lora_up.weight"), pair(weight), strict=True):
                tensors[head + suffix] = LazyTensor("F16", shape, lambda: pytest.fail("a tensor was read"))
        return layouts.identify(Package.new({"lora.safetensors": File(tensors, metadata or {})}))

    return call


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """`written({name: shape})`: a file with these tensors, of small numbers."""

    def call(shapes: Mapping[str, Shape], metadata: Mapping[str, str] | None = None) -> Path:
        path = tmp_path / "given.safetensors"
        noise = np.random.default_rng(0)
        tensors = {name: np.asarray(noise.integers(1, 9, shape) / 32, np.float16) for name, shape in shapes.items()}
        save_file(tensors, path, metadata=dict(metadata) if metadata else None)
        return path

    return call


@pytest.fixture
def lora(written: Callable[..., Path]) -> Callable[..., Path]:
    """`lora({head: weight})`: a Kohya-suffixed file with a pair and alpha for each head."""

    def call(weights: Weights, metadata: Mapping[str, str] | None = None, **more: Shape) -> Path:
        shapes: dict[str, Shape] = {}
        for head, weight in weights.items():
            down, up = pair(weight)
            shapes |= {f"{head}.lora_down.weight": down, f"{head}.lora_up.weight": up, f"{head}.alpha": ()}
        return written({**shapes, **more}, metadata)

    return call
