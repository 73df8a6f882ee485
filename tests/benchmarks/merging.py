"""Merging a rank-32 LoRA into whole models of full size, in memory and on a disk, beside `cp` of the model and beside diffusers."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.cost import ROOM, Cost, Row, adapterhub, available, best, cost, made, remove, warm

_LIMITS = {"sd1": (1.5, 0.5, 150), "sdxl": (1.8, 2.0, 350)}
"""Times `cp`, seconds beside it, MB."""
_TWICE = {"sd1": 5 << 30, "sdxl": 15 << 30}
"""Bytes for a base and what it becomes."""
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
    """SD 1.5 and SDXL in memory, beside `cp`: neither waits for a disk, and what is compared is work."""
    for architecture, (times, beside, memory) in _LIMITS.items():
        if shutil.disk_usage(folder).free < _TWICE[architecture]:
            continue
        base, adapter, out = _made(folder, architecture)
        copied = best(out, "cp", str(base), str(out), runs=_RUNS).wall
        merged, peak = _merged(base, adapter, out)
        yield Row(f"merge {architecture}: (wall - {beside:g} s) / cp", (merged.wall - beside) / copied, times, "×")
        yield Row(f"merge {architecture}: peak memory", peak, memory, "MB")
        print(f"  cp {copied:.2f} s")
        for path in (base, adapter):
            path.unlink()


def merging_on_disk(folder: Path) -> Iterator[Row]:
    """The same on a disk. A merge ends when all of it is there, `cp` when it is in memory: so beside `cp` and `sync`; and beside
    diffusers, which ends like `cp`.
    """
    for architecture, (times, beside, memory) in _LIMITS.items():
        base, adapter, out = _made(folder, architecture)
        copied = best(out, "cp", str(base), str(out), runs=_RUNS).wall
        durable = best(out, "sh", "-c", 'cp "$0" "$1" && sync "$1"', str(base), str(out), runs=_RUNS).wall
        merged, peak = _merged(base, adapter, out)
        yield Row(f"merge {architecture} on a disk: (wall - {beside:g} s) / (cp and sync)",
                  (merged.wall - beside) / durable, times, "×")  # fmt: skip
        yield Row(f"merge {architecture} on a disk: peak memory", peak, memory, "MB")
        print(f"  cp {copied:.2f} s, with sync {durable:.2f} s")
        if min(available(), shutil.disk_usage(folder).free) > ROOM:
            peer = _diffusers(folder, base, adapter, architecture)
            yield Row(f"diffusers load + fuse + save / merge, {architecture}", peer.wall / merged.wall, 4, "×", True)
            print(f"  diffusers {peer.wall:.2f} s, {peer.peak:.0f} MB")
        for path in (base, adapter):
            path.unlink()


def _made(folder: Path, architecture: str) -> tuple[Path, Path, Path]:
    """A base, an adapter, and where the result goes."""
    os.environ["ADAPTERHUB_CACHE"] = str(folder / "cache")
    base, adapter = (folder / f"{what}-{architecture}.safetensors" for what in ("base", "adapter"))
    made("model", base, architecture)
    made("lora", adapter, architecture, "32")
    return base, adapter, folder / "out.safetensors"


def _merged(base: Path, adapter: Path, out: Path) -> tuple[Cost, float]:
    """The quickest merge into a base whose sha256 is known, and the peak of memory of all; the first one hashes the base."""
    command = adapterhub("merge", str(base), f"{adapter}:0.7", "-o", str(out))
    first, again = (best(out, *command, runs=runs) for runs in (1, _RUNS))
    told = best(out, *command, "--json", runs=1)
    remove(out)
    print(f"  merge {again.wall:.2f} s ({again.cpu:.2f} CPU-s) · the first into this base {first.wall:.2f} s · "
          f"with the result's sha256 {told.wall:.2f} s")  # fmt: skip
    return again, max(first.peak, again.peak, told.peak)


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
