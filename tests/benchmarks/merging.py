"""Merging a rank-32 LoRA into whole models of full size, on a disk, beside `cp` of the model and beside diffusers."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.cost import ROOM, Cost, Row, adapterhub, available, best, cost, remove, warm

_LIMITS = {"sd1": (1.5, 0.5, 150), "sdxl": (1.8, 2.0, 350)}
"""Times `cp`, seconds beside it, MB."""
_RUNS = 3
_FUSE = """
import sys, diffusers, torch
kind = diffusers.StableDiffusionXLPipeline if sys.argv[5] == "sdxl" else diffusers.StableDiffusionPipeline
pipe = kind.from_single_file(sys.argv[1], config=sys.argv[2], local_files_only=True, dtype=torch.float16)
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
        out = folder / "out.safetensors"
        copied = best(out, "cp", str(base), str(out), runs=_RUNS).wall
        command = adapterhub("merge", str(base), f"{adapter}:0.7", "-o", str(out))
        first, again = (best(out, *command, runs=runs) for runs in (1, _RUNS))
        told = best(out, *command, "--json", runs=1)
        remove(out)
        yield Row(f"merge {architecture}: (wall - {beside:g} s) / cp", (again.wall - beside) / copied, times, "×")
        yield Row(f"merge {architecture}: peak memory", max(first.peak, again.peak, told.peak), memory, "MB")
        print(f"  cp {copied:.2f} s · merge {again.wall:.2f} s ({again.cpu:.2f} CPU-s) · the first into this base "
              f"{first.wall:.2f} s · with the result's sha256 {told.wall:.2f} s")  # fmt: skip
        if min(available(), shutil.disk_usage(folder).free) > ROOM:
            peer = _diffusers(folder, base, adapter, architecture)
            yield Row(f"diffusers load + fuse + save / merge, {architecture}", peer.wall / again.wall, 4, "×", True)
            print(f"  diffusers {peer.wall:.2f} s, {peer.peak:.0f} MB")
        for path in (base, adapter):
            path.unlink()


def _diffusers(folder: Path, base: Path, adapter: Path, architecture: str) -> Cost:
    configs, theirs = folder / "configs", folder / "theirs"
    cost(*adapterhub("convert", str(base), "--to", "diffusers", "-o", str(configs)))
    for weights in configs.rglob("*.safetensors"):
        weights.unlink()
    warm(base)
    command = (sys.executable, "-c", _FUSE, str(base), str(configs), str(adapter), str(theirs), architecture)
    found = best(theirs, *command, runs=2)
    for path in (configs, theirs):
        shutil.rmtree(path)
    return found
