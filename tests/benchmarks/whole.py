"""Whole models from one file into a folder and back, on a disk, beside `cp` and beside diffusers."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.cost import ROOM, Cost, Row, adapterhub, available, best, cost, made, warm

_SINGLE_FILE = """
import sys, diffusers, torch
kind = diffusers.StableDiffusionXLPipeline if sys.argv[4] == "sdxl" else diffusers.StableDiffusionPipeline
kept = {"dtype": torch.float16} if sys.argv[5] == "float16" else {}
kind.from_single_file(sys.argv[1], config=sys.argv[2], local_files_only=True, **kept).save_pretrained(sys.argv[3])
"""

_OPENS = """
import sys, torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
def one_step(pipeline):
    start = torch.Generator().manual_seed(0)
    pipeline.to(torch.float32)  # a copy: where weights lie in a file decides which kernels torch takes
    return pipeline("a cat", num_inference_steps=1, height=64, width=64, output_type="latent", generator=start).images
folder = one_step(DiffusionPipeline.from_pretrained(sys.argv[1], local_files_only=True))
single = one_step(StableDiffusionPipeline.from_single_file(sys.argv[2], config=sys.argv[1], local_files_only=True))
assert folder.isfinite().all() and folder.std() and torch.equal(folder, single)
"""
"""What we wrote, opened by diffusers at full size: the folder and the single file compute the same."""
_MEMORY = {"float16": ROOM, "float32": 22_000_000_000}
"""Bytes that diffusers takes for SDXL."""
_DISK = 30_000_000_000
"""Bytes of the files before and after."""


def moving(folder: Path) -> Iterator[Row]:
    """Whole models, SDXL of 6.9 GB, from one file into a folder and back, beside `cp` and beside diffusers."""
    for architecture in ("sd1", "sdxl"):
        source = made("model", folder / f"whole-{architecture}.safetensors", architecture)
        target, back, copy = folder / architecture, folder / "back.safetensors", folder / "copy.safetensors"
        copied = best(copy, "cp", source, str(copy), runs=2).wall
        copy.unlink()
        out = best(target, *adapterhub("convert", source, "--to", "diffusers", "-o", str(target)), runs=2)
        Path(source).unlink()
        warm(target)
        into = best(back, *adapterhub("convert", str(target), "--to", "single-file", "-o", str(back)), runs=2)
        print(f"  {architecture}: cp {copied:.2f} s · to a folder {out.wall:.2f} s ({out.cpu:.2f} CPU-s) · "
              f"back {into.wall:.2f} s ({into.cpu:.2f} CPU-s)")  # fmt: skip
        if architecture == "sdxl":
            yield Row("whole SDXL, one file to a folder: wall / cp", out.wall / copied, 1.5, "×")
            yield Row("whole SDXL, a folder to one file: wall / cp", into.wall / copied, 1.5, "×")
            yield Row("whole SDXL, the more memory of both", max(out.peak, into.peak), 150, "MB")
        else:
            opened = cost(sys.executable, "-c", _OPENS, str(target), str(back))
            print(
                f"  diffusers opens the folder and the file, and computes the same step with both ({opened.wall:.0f} s)"
            )
        for weights in target.rglob("*.safetensors"):
            weights.unlink()
        for dtype in ("float32", "float16"):
            yield from _diffusers(folder, architecture, dtype, out)
        shutil.rmtree(target)
        back.unlink()


def _diffusers(folder: Path, architecture: str, dtype: str, ours: Cost) -> Iterator[Row]:
    """The same model from one file into a folder by diffusers: as it is called, which makes it float32, or kept as it is."""
    if available() < _MEMORY[dtype] or shutil.disk_usage(folder).free < _DISK:
        print(f"  diffusers, {architecture} in {dtype}: not measured, for want of memory or disk")
        return
    back, configs, theirs = (folder / name for name in ("back.safetensors", architecture, "theirs"))
    warm(back)
    command = (sys.executable, "-c", _SINGLE_FILE, str(back), str(configs), str(theirs), architecture, dtype)
    found = best(theirs, *command, runs=2)
    shutil.rmtree(theirs)
    print(f"  diffusers, {architecture} in {dtype}: {found.wall:.2f} s, {found.peak:.0f} MB")
    yield Row(
        f"diffusers from_single_file + save / convert, {architecture}, {dtype}", found.wall / ours.wall, 5, "×", True
    )
    yield Row("its memory / ours", found.peak / ours.peak, 10, "×", True)
