"""scale, combine, resize, extract and unmerge, killed at twenty points of their run: the inputs are intact, no output is torn."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.operations.made_loras import SHAPES, lora, saved
from tests.operations.merge_files import base

KILLED = """
import os, signal, sys, threading, time
import adapterhub
folder, call, points = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.chdir(folder)
def run(place, force):
    eval(call, {"adapterhub": adapterhub, "out": f"{place}/out.safetensors", "force": force})
run("warm", False)
started = time.perf_counter()
run("warm", True)
whole = time.perf_counter() - started
for point in range(points):
    child = os.fork()
    if not child:
        threading.Timer(whole * (point + 0.5) / points, os.kill, (os.getpid(), signal.SIGKILL)).start()
        run(f"out{point}", False)
        time.sleep(60)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""A tool in a process that is killed when a share of the time is over that it takes; torch is there already."""
POINTS = 20
CALLS: Mapping[str, str] = {
    "scale": 'adapterhub.scale("a.safetensors", out, 0.3, into="weights", force=force)',
    "combine": 'adapterhub.combine([("a.safetensors", 0.7), "b.safetensors"], out, force=force)',
    "resize": 'adapterhub.resize("a.safetensors", out, rank=2, force=force)',
    "extract": 'adapterhub.extract("tuned.safetensors", "base.safetensors", out, rank=2, architecture="sd1", force=force)',
    "unmerge": 'adapterhub.unmerge("tuned.safetensors", ["small.safetensors"], out, architecture="sd1", force=force)',
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two LoRAs that take a moment, and a small model before and after a training."""
    folder = tmp_path_factory.mktemp("inputs")
    for name in "ab":
        saved(folder / f"{name}.safetensors", {module: lora(shape, rank=64) for module, shape in SHAPES.items()})
    tensors = load_file(base(folder / "base.safetensors"))
    place = next(name for name in tensors if name.endswith("input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"))
    changed = tensors | {place: tensors[place] + 0.25}
    save_file(changed, folder / "tuned.safetensors")
    rows, columns = tensors[place].shape
    head = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    save_file({f"{head}.lora_down.weight": torch.ones(1, columns), f"{head}.lora_up.weight": torch.ones(rows, 1)},
              folder / "small.safetensors")  # fmt: skip
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


@pytest.mark.parametrize("tool", CALLS)
def test_killed_at_twenty_points_the_inputs_are_intact_and_nothing_half_written_has_a_name(
    tool: str, inputs: Path, tmp_path: Path
) -> None:
    for name in ("warm", *(f"out{point}" for point in range(POINTS))):
        (tmp_path / name).mkdir()
    before = digests(inputs)
    for name in before:
        (tmp_path / name).symlink_to(inputs / name)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), CALLS[tool], str(POINTS)], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # threads of OpenMP do not survive a fork
    )  # fmt: skip
    assert done.stdout.split() == [str(-signal.SIGKILL)] * POINTS, done.stderr
    assert digests(inputs) == before
    whole = digests(tmp_path / "warm")["out.safetensors"]
    assert not (tmp_path / "out0" / "out.safetensors").exists(), "no kill came before the end"
    for point in range(POINTS):
        for path in (tmp_path / f"out{point}").iterdir():
            if path.name == "out.safetensors":
                assert hashlib.sha256(path.read_bytes()).hexdigest() == whole
            else:
                assert path.name.startswith(".out.safetensors.")
                assert path.name.endswith(".partial")
