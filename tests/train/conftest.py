"""Tiny bases with the true modules and random weights, and pictures: for the mechanics of training. What is learned is tested on
`fixtures/learning`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.consumers.test_checkpoints import made


@pytest.fixture(scope="session")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model of an architecture, as diffusers saves it."""

    @cache
    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp(f"base-{name}")
        made(name, folder)
        return folder / "theirs"

    return make


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures of noise, two of them with captions."""
    folder = tmp_path_factory.mktemp("pictures")
    chance = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(chance.integers(0, 256, (40, 32 + 8 * number, 3), dtype=np.uint8)).save(
            folder / f"{number}.png"
        )
    (folder / "0.txt").write_text("a photo of sks cat\n")
    (folder / "1.txt").write_text("sks cat, on a mat")
    return folder
