"""Merging a rank-32 LoRA into whole models of full size, beside `cp` of the model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.cost import Row, adapterhub, cost

_LIMITS = {"sd1": (1.5, 0.5, 150), "sdxl": (1.8, 2.0, 350)}
"""Times `cp`, seconds beside it, MB."""
_RUNS = 3


def merging(folder: Path) -> Iterator[Row]:
    """SD 1.5 and SDXL; without the check, which reads the result once more for its sha256, and with it."""
    for architecture, (times, beside, memory) in _LIMITS.items():
        base, adapter = (folder / f"{what}-{architecture}.safetensors" for what in ("base", "adapter"))
        cost(sys.executable, "-m", "tests.benchmarks.files", "model", str(base), architecture)
        cost(sys.executable, "-m", "tests.benchmarks.files", "lora", str(adapter), architecture, "32")
        copy, out = folder / "copy.safetensors", folder / "out.safetensors"
        copied = min(cost("cp", str(base), str(copy)).wall for _ in range(_RUNS))
        copy.unlink()
        command = ("merge", str(base), f"{adapter}:0.7", "-o", str(out), "--force")
        bare = min((cost(*adapterhub(*command, "--no-check")) for _ in range(_RUNS)), key=lambda one: one.wall)
        proved = cost(*adapterhub(*command))
        yield Row(
            f"merge {architecture}, no check: (wall - {beside:g} s) / cp", (bare.wall - beside) / copied, times, "×"
        )
        yield Row(f"merge {architecture}: peak memory", max(bare.peak, proved.peak), memory, "MB")
        print(f"  cp {copied:.2f} s · no check {bare.wall:.2f} s ({bare.cpu:.2f} CPU-s) · "
              f"with the result's sha256 {proved.wall:.2f} s ({proved.cpu:.2f} CPU-s)")  # fmt: skip
        for path in (base, adapter, out):
            path.unlink()
