"""Merging a rank-32 LoRA into whole models of full size, beside `cp` of the model and beside diffusers."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.cost import Cost, Row, adapterhub, cost

_LIMITS = {"sd1": (1.5, 0.5, 150), "sdxl": (1.8, 2.0, 350)}
"""Times `cp`, seconds beside it, MB."""
_RUNS = 3
_SETTLED = 2.1
"""Seconds after which the digest of a file may be remembered."""
_FUSE = """
import sys, torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_single_file(sys.argv[1], config=sys.argv[2], local_files_only=True, dtype=torch.float16)
pipe.load_lora_weights(sys.argv[3])
pipe.fuse_lora(lora_scale=0.7)
pipe.unload_lora_weights()
pipe.save_pretrained(sys.argv[4])
"""


def merging(folder: Path) -> Iterator[Row]:
    """SD 1.5 and SDXL: the first merge into a base, which is hashed for the recipe, and later ones, which know its sha256."""
    os.environ["ADAPTERHUB_CACHE"] = str(folder / "cache")
    for architecture, (times, beside, memory) in _LIMITS.items():
        base, adapter = (folder / f"{what}-{architecture}.safetensors" for what in ("base", "adapter"))
        cost(sys.executable, "-m", "tests.benchmarks.files", "model", str(base), architecture)
        cost(sys.executable, "-m", "tests.benchmarks.files", "lora", str(adapter), architecture, "32")
        time.sleep(_SETTLED)
        copied = min(_fresh(folder, "cp", str(base)).wall for _ in range(_RUNS))
        command = adapterhub("merge", str(base), f"{adapter}:0.7", "-o")
        first = _fresh(folder, *command)
        again = min((_fresh(folder, *command) for _ in range(_RUNS)), key=lambda one: one.wall)
        told = _fresh(folder, *adapterhub("merge", str(base), f"{adapter}:0.7", "--json", "-o"))
        yield Row(f"merge {architecture}: (wall - {beside:g} s) / cp", (again.wall - beside) / copied, times, "×")
        yield Row(f"merge {architecture}: peak memory", max(first.peak, again.peak, told.peak), memory, "MB")
        print(f"  cp {copied:.2f} s · merge {again.wall:.2f} s ({again.cpu:.2f} CPU-s) · the first into this base "
              f"{first.wall:.2f} s · with the result's sha256 {told.wall:.2f} s")  # fmt: skip
        if architecture == "sd1":
            peer = _diffusers(folder, base, adapter)
            yield Row("diffusers load + fuse + save / merge, SD 1", peer.wall / again.wall, 4, "×", True)
            print(f"  diffusers {peer.wall:.2f} s, {peer.peak:.0f} MB")
        for path in (base, adapter):
            path.unlink()


def _fresh(folder: Path, *command: str) -> Cost:
    """The cost of a command that is given where to write, and finds nothing there."""
    out = folder / "out.safetensors"
    out.unlink(missing_ok=True)
    found = cost(*command, str(out))
    out.unlink()
    return found


def _diffusers(folder: Path, base: Path, adapter: Path) -> Cost:
    configs, theirs = folder / "configs", folder / "theirs"
    cost(*adapterhub("convert", str(base), "--to", "diffusers", "-o", str(configs)))
    for weights in configs.rglob("*.safetensors"):
        weights.unlink()
    found = cost(sys.executable, "-c", _FUSE, str(base), str(configs), str(adapter), str(theirs))
    for path in (configs, theirs):
        shutil.rmtree(path)
    return found
