"""`make bench`: what commands cost, each as a whole process, beside the limit that it has to keep.

Ratios are taken within this one run; absolute limits are seconds of processor. A busy machine shows in all of them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.cost import ROOM, Row, adapterhub, cost, made, typical
from tests.benchmarks.factors import extracting, resizing
from tests.benchmarks.merging import merging, merging_on_disk
from tests.benchmarks.registry import registry
from tests.benchmarks.training import training
from tests.benchmarks.whole import moving

_DIFFUSERS = """
import sys
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save_file
state, alphas = StableDiffusionXLPipeline.lora_state_dict(sys.argv[1], unet_config=None)
save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, sys.argv[2])
"""

_INSPECT = """
import sys, time, adapterhub
adapterhub.inspect(sys.argv[1])
start = time.process_time()
for _ in range(300):
    adapterhub.inspect(sys.argv[1])
print(300 / (time.process_time() - start))
"""

_ON_DISK = (moving, merging_on_disk)
"""Whole models lie on disks, which they are written to past the system's cache."""


def lora(path: Path, architecture: str, rank: int) -> str:
    """A Kohya LoRA of full size at `path`."""
    return made("lora", path, architecture, str(rank))


def start_up(folder: Path) -> Iterator[Row]:
    """What is paid before anything is done."""
    small = lora(folder / "sd1.safetensors", "sd1", 4)
    for arguments, limit in ((("--help",), 0.15), (("--version",), 0.15), (("inspect", small), 0.35)):
        yield Row(f"adapterhub {arguments[0]}", typical(*adapterhub(*arguments)).cpu, limit, "CPU-s")


def pickled(folder: Path) -> Iterator[Row]:
    """Torch's files, of which no tensor is read."""
    small = made("embedding", folder / "word.pt")
    yield Row("adapterhub inspect, an embedding", typical(*adapterhub("inspect", small)).cpu, 0.35, "CPU-s")
    whole = made("model", folder / "model.ckpt", "sd1")
    found = typical(*adapterhub("inspect", whole), runs=3)
    yield Row("adapterhub inspect, a .ckpt of 2 GB: peak memory", found.peak, 60, "MB")
    Path(whole).unlink()


def inspecting(folder: Path) -> Iterator[Row]:
    """Files a second inside one process: Kohya's 264 modules of SD 1, and the 128 of its attentions without alpha."""
    whole, bare = str(folder / "sd1.safetensors"), str(folder / "attentions.safetensors")
    cost(*adapterhub("convert", whole, "--to", "diffusers-attn-procs", "-o", bare, "--allow-loss"))
    for path, what in ((whole, "792 tensors"), (bare, "256 tensors")):
        found = subprocess.run([sys.executable, "-c", _INSPECT, path], capture_output=True, text=True, check=True)
        yield Row(f"inspect in one process, {what}", float(found.stdout), 400, "files/CPU-s", True)


def converting(folder: Path) -> Iterator[Row]:
    """A renaming conversion of 512 MB beside `cp` and beside diffusers' own converter."""
    source, target = lora(folder / "sdxl.safetensors", "sdxl", 75), str(folder / "out.safetensors")
    command = ("convert", source, "--to", "diffusers", "-o", target, "--force")
    cost("cp", source, target)  # warms the page cache
    copied = typical("cp", source, target, runs=3)
    start = typical(*adapterhub("layouts", "--json"), runs=3).wall
    bare = typical(*adapterhub(*command, "--no-check"), runs=3)
    proved = typical(*adapterhub(*command), runs=3)
    peer = cost(sys.executable, "-c", _DIFFUSERS, source, target)
    yield Row("convert 512 MB, no check: (wall - start-up) / cp", (bare.wall - start) / copied.wall, 4, "×")
    yield Row("convert 512 MB, no check: peak memory", bare.peak, 80, "MB")
    yield Row("convert 512 MB, proved: peak memory", proved.peak, 600, "MB")
    yield Row("diffusers lora_state_dict + save / convert, no check", peer.wall / bare.wall, 5, "×", True)
    print(f"  cp {copied.wall:.2f} s · start-up {start:.2f} s · no check {bare.wall:.2f} s ({bare.cpu:.2f} CPU-s) · "
          f"proved {proved.wall:.2f} s · diffusers {peer.wall:.2f} s, {peer.peak:.0f} MB")  # fmt: skip


def main() -> int:
    """Print a line a figure; status 1 if one breaks its limit."""
    broken = 0
    with _folder(_fast()) as memory, _folder() as disk:
        for measure in (
            start_up, pickled, inspecting, converting, moving, merging, merging_on_disk, resizing, extracting, training,
            registry,
        ):  # fmt: skip
            for row in measure(Path(disk if measure in _ON_DISK else memory)):
                broken += not row.kept
                print(row, flush=True)
    return int(broken > 0)


def _folder(within: str | None = None) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="adapterhub-bench-", dir=within)


def _fast() -> str | None:
    """Memory, where there is enough of it: what is compared is work, and a busy disk hides it."""
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() and shutil.disk_usage(shared).free > ROOM else None


if __name__ == "__main__":
    sys.exit(main())
