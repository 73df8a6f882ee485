"""One step of each trainer on an SD 1.5 of full size with random weights, on the CPU: does it fit into 20 GB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.benchmarks.cost import Row, adapterhub, cost
from tests.benchmarks.files import model

TECHNIQUES = {
    "textual-inversion": ("--token", "<fox>", "--initial-words", "animal"),
    "lora": ("--prompt", "a photo of sks fox"),
    "hypernetwork": ("--prompt", "a photo of a fox"),
    "dreambooth": ("--prompt", "a photo of sks fox"),
}
ALIKE = ("--steps", "1", "--batch", "1", "--resolution", "256", "--gradient-checkpointing", "--sample-count", "0")
LIMIT = 20_000


def training(folder: Path) -> Iterator[Row]:
    """Peak memory and wall time of one step, the opening of the base and the writing of the result included."""
    base, pictures = model(folder / "base.safetensors", "sd1"), folder / "pictures"
    pictures.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(noise).save(pictures / "0.png")
    for technique, special in TECHNIQUES.items():
        told = ("--base", str(base), "--images", str(pictures), "-o", str(folder / technique), *ALIKE, *special)
        found = cost(*adapterhub("train", technique, *told))
        print(f"  train {technique}: one step and all around it {found.wall:.0f} s")
        yield Row(f"train {technique}, one step on SD 1.5 at 256 px: peak memory", found.peak, LIMIT, "MB")
