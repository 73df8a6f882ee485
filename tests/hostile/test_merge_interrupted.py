"""A merge that is killed at any point leaves the base as it was, and nothing at the output path."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from adapterhub import merge
from tests.operations.merge_files import Q, base, head, lora, place

MERGE = """
import os, signal, sys, threading, time
from pathlib import Path
import adapterhub
folder, share = Path(sys.argv[1]), float(sys.argv[2])
def merge(place):
    adapterhub.merge(folder / "base.safetensors", [folder / "a.safetensors"], folder / place / "merged.safetensors",
                     undo=folder / place / "m.undo", architecture="sd1", force=place == "warm")
merge("warm")
started = time.perf_counter()
merge("warm")
timer = threading.Timer(share * (time.perf_counter() - started), os.kill, (os.getpid(), signal.SIGKILL))
timer.daemon = True
timer.start()
merge("out")
time.sleep(60)
"""
"""Is killed when that share of the time is over that a merge takes."""
POINTS = 20


def test_killed_at_twenty_points_the_base_is_intact_and_nothing_half_written_has_a_name(tmp_path: Path) -> None:
    model = base(tmp_path / "base.safetensors")
    tensors = load_file(model)
    tensors[place("unet", Q)] = torch.zeros(1024, 1024, dtype=torch.float16)
    save_file(tensors, model)
    adapter = lora(tmp_path / "a.safetensors")
    factors = load_file(adapter)
    factors[f"{head('unet', Q)}.lora_down.weight"] = torch.ones(2, 1024, dtype=torch.float16)
    factors[f"{head('unet', Q)}.lora_up.weight"] = torch.ones(1024, 2, dtype=torch.float16)
    save_file(factors, adapter)
    for name in ("out", "warm"):
        (tmp_path / name).mkdir()
    before = hashlib.sha256(model.read_bytes()).hexdigest()
    whole = merge(model, [adapter], tmp_path / "whole.safetensors", architecture="sd1").target.sha256
    left = 0
    for point in range(1, POINTS + 1):
        child = subprocess.run([sys.executable, "-c", MERGE, str(tmp_path), str(point / POINTS)])
        assert child.returncode == -signal.SIGKILL
        assert hashlib.sha256(model.read_bytes()).hexdigest() == before
        names = {path.name for path in (tmp_path / "out").iterdir()}
        left += len(names - {"merged.safetensors", "m.undo"})
        for path in (tmp_path / "out").iterdir():
            if path.name == "merged.safetensors":  # it was done
                assert hashlib.sha256(path.read_bytes()).hexdigest() == whole
            assert path.name in {"merged.safetensors", "m.undo"} or path.name.endswith(".partial")
            if not path.name.endswith(".partial"):
                path.unlink()
    merge(
        model, [adapter], tmp_path / "out" / "merged.safetensors", undo=tmp_path / "out" / "m.undo", architecture="sd1"
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["m.undo", "merged.safetensors"]
    assert left, "no kill came while a file was being written"
