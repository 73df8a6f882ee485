"""What resizing and extracting cost, beside a singular value decomposition of every whole ΔW, which is how Kohya's scripts do it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.cost import Row, adapterhub, cost

_WHOLE = """
import sys, time, torch
from pathlib import Path
from adapterhub.adapter import Role
from adapterhub.operations.lora import deltas
from adapterhub.operations.source import open_adapter
alike = {}
with open_adapter(Path(sys.argv[1])) as source:
    for roles in source.adapter.modules().values():
        alike.setdefault((roles[Role.UP].shape[0], roles[Role.DOWN].size), []).append(roles)
    total = 0.0
    for modules in alike.values():
        matrix = deltas.change(modules[0], None).flatten(1).float()
        start = time.perf_counter()
        torch.linalg.svd(matrix, full_matrices=False)
        total += len(modules) * (time.perf_counter() - start)
print(total)
"""
"""In float32, one module of each shape, times their number: all of them would take the better part of an hour."""
_KOHYA = """
import sys, time, torch
from pathlib import Path
from adapterhub.adapter import Key, Role
from adapterhub.operations.lora import deltas
from adapterhub.operations.source import open_adapter
alike = {}
tuned, base, made = map(Path, sys.argv[1:])
with open_adapter(tuned) as a, open_adapter(base) as b, open_adapter(made) as lora:
    for module, roles in lora.adapter.modules().items():
        wide = [deltas.tensor(one.adapter.tensors[Key(*module, Role.LAYER_WEIGHT)]).flatten(1) for one in (a, b)]
        alike.setdefault(wide[0].shape, []).append((*wide, deltas.change(roles, None).flatten(1)))
total = worst = 0.0
for modules in alike.values():
    tuned, base, delta = modules[0]
    wanted = (tuned - base).float()
    start = time.perf_counter()
    sizes = torch.linalg.svd(wanted).S
    total += len(modules) * (time.perf_counter() - start)
    best = float(sizes[32:].double().square().sum().sqrt())
    worst = max(worst, float((wanted.double() - delta.double()).norm()) / best)
print(total, worst)
"""
"""What `extract_lora_from_models.py` calls for each module, all singular vectors included, in float32; and the error of ours in
shares of the least that there is at rank 32. One module of each shape, times their number.
"""
_TUNED = r"""
import re, sys
import numpy as np
from safetensors.numpy import load_file, save_file
trained = re.compile(r"model\.diffusion_model\..*(transformer_blocks|proj_(in|out))\..*|cond_stage_model\..*\.layers\..*")
tensors, random = load_file(sys.argv[1]), np.random.default_rng(0)
for name, tensor in tensors.items():
    if trained.match(name) and tensor.ndim > 1:
        tensors[name] = (tensor + 0.01 * random.standard_normal(tensor.shape, "f4")).astype("f2")
save_file(tensors, sys.argv[2])
"""


def resizing(folder: Path) -> Iterator[Row]:
    """A rank-128 LoRA for SDXL to rank 32, by its factors and by every ΔW (a sample, extrapolated)."""
    source, target = folder / "sdxl-128.safetensors", folder / "sdxl-32.safetensors"
    _run("-m", "tests.benchmarks.files", "lora", str(source), "sdxl", "128")
    ours = cost(*adapterhub("resize", str(source), "--rank", "32", "-o", str(target)))
    whole = float(_run("-c", _WHOLE, str(source)))
    yield Row("SVD of each ΔW (sampled) / resize, proved", whole / ours.wall, 20, "×", True)
    print(
        f"  resize {ours.wall:.1f} s ({ours.cpu:.1f} CPU-s), {ours.peak:.0f} MB · each ΔW {whole:.0f} s, extrapolated"
    )
    source.unlink()
    target.unlink()


def extracting(folder: Path) -> Iterator[Row]:
    """What a fine-tuned SD 1 changed in the modules that Kohya's LoRAs are for, at rank 32, beside the decompositions of its script."""
    base, tuned, target = (folder / f"{name}.safetensors" for name in ("base", "tuned", "extracted"))
    _run("-m", "tests.benchmarks.files", "model", str(base), "sd1")
    _run("-c", _TUNED, str(base), str(tuned))
    ours = cost(*adapterhub("extract", str(tuned), str(base), "--rank", "32", "-o", str(target)))
    whole, error = map(float, _run("-c", _KOHYA, str(tuned), str(base), str(target)).split())
    yield Row("SVDs of Kohya's extraction (sampled) / extract, proved", whole / ours.wall, 5, "×", True)
    yield Row("error of ours / error of theirs, the largest", error, 1.01, "×")
    yield Row("extract of SD 1 at rank 32: peak memory", ours.peak, 1500, "MB")
    print(f"  extract {ours.wall:.1f} s ({ours.cpu:.1f} CPU-s) · theirs {whole:.0f} s, extrapolated")
    for path in (base, tuned, target):
        path.unlink()


def _run(*arguments: str) -> str:
    return subprocess.run((sys.executable, *arguments), check=True, capture_output=True, text=True).stdout
