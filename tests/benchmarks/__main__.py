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

from tests.benchmarks.cost import ROOM, Cost, Row, adapterhub, best, cost, typical
from tests.benchmarks.factors import extracting, resizing
from tests.benchmarks.merging import merging
from tests.benchmarks.registry import registry
from tests.benchmarks.training import training

_DIFFUSERS = """
import sys
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save_file
state, alphas = StableDiffusionXLPipeline.lora_state_dict(sys.argv[1], unet_config=None)
save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, sys.argv[2])
"""

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

_INSPECT = """
import sys, time, adapterhub
adapterhub.inspect(sys.argv[1])
start = time.process_time()
for _ in range(300):
    adapterhub.inspect(sys.argv[1])
print(300 / (time.process_time() - start))
"""


def lora(path: Path, architecture: str, rank: int) -> str:
    """A Kohya LoRA of full size at `path`."""
    return made("lora", path, architecture, str(rank))


def made(what: str, path: Path, *arguments: str) -> str:
    """A file of full size at `path`."""
    cost(sys.executable, "-m", "tests.benchmarks.files", what, str(path), *arguments)
    return str(path)


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


def moving(folder: Path) -> Iterator[Row]:
    """Whole models, SDXL of 6.9 GB, from one file into a folder and back, beside `cp` and beside diffusers."""
    for architecture in ("sd1", "sdxl"):
        source = made("model", folder / f"whole-{architecture}.safetensors", architecture)
        target, back, copy = folder / architecture, folder / "back.safetensors", folder / "copy.safetensors"
        copied = best(copy, "cp", source, str(copy), runs=2).wall
        copy.unlink()
        out = best(target, *adapterhub("convert", source, "--to", "diffusers", "-o", str(target)), runs=2)
        Path(source).unlink()
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
        for dtype in ("float32", "float16") if architecture == "sd1" else ("float16",):
            if shutil.disk_usage(folder).free > ROOM:
                yield from _diffusers(folder, architecture, dtype, out)
        shutil.rmtree(target)
        back.unlink()


def _diffusers(folder: Path, architecture: str, dtype: str, ours: Cost) -> Iterator[Row]:
    """The same model from one file into a folder by diffusers: as it is called, which makes it float32, or kept as it is."""
    back, configs, theirs = (folder / name for name in ("back.safetensors", architecture, "theirs"))
    command = (sys.executable, "-c", _SINGLE_FILE, str(back), str(configs), str(theirs), architecture, dtype)
    found = best(theirs, *command, runs=2)
    shutil.rmtree(theirs)
    print(f"  diffusers, {architecture} in {dtype}: {found.wall:.2f} s, {found.peak:.0f} MB")
    yield Row(
        f"diffusers from_single_file + save / convert, {architecture}, {dtype}", found.wall / ours.wall, 5, "×", True
    )
    yield Row("its memory / ours", found.peak / ours.peak, 10, "×", True)


def main() -> int:
    """Print a line a figure; status 1 if one breaks its limit."""
    broken = 0
    with tempfile.TemporaryDirectory(prefix="adapterhub-bench-", dir=_fast()) as name:
        for measure in (
            start_up,
            pickled,
            inspecting,
            converting,
            moving,
            merging,
            resizing,
            extracting,
            training,
            registry,
        ):
            for row in measure(Path(name)):
                broken += not row.kept
                print(row, flush=True)
    return int(broken > 0)


def _fast() -> str | None:
    """Memory, where there is enough of it: what is compared is work, and a busy disk hides it."""
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() and shutil.disk_usage(shared).free > ROOM else None


if __name__ == "__main__":
    sys.exit(main())
