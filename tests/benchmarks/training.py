"""One step of each trainer on an SD 1.5 of full size with random weights, on the CPU: does it fit into 20 GB."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.cost import Row, adapterhub, cost

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
    base, pictures = folder / "base.safetensors", folder / "pictures"
    pictures.mkdir()
    for what, path, *arguments in (("model", base, "sd1"), ("picture", pictures / "0.png")):
        cost(sys.executable, "-m", "tests.benchmarks.files", what, str(path), *arguments)
    for technique, special in TECHNIQUES.items():
        told = ("--base", str(base), "--images", str(pictures), "-o", str(folder / technique), *ALIKE, *special)
        found = cost(*adapterhub("train", technique, *told))
        print(f"  train {technique}: one step and all around it {found.wall:.0f} s")
        yield Row(f"train {technique}, one step on SD 1.5 at 256 px: peak memory", found.peak, LIMIT, "MB")
