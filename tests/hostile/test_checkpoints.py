"""Whole models that lie, are halved or mixed, and conversions that die in the middle: nothing is written, nothing is lost."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import adapterhub
from adapterhub.errors import MachineFailure
from tests.operations.checkpoint_files import Tensors, content, saved, schedule, weights

INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"
UNET_FILE = "unet/diffusion_pytorch_model.safetensors"
VAE_FILE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SD 1 file, and the folder of the same."""
    folder = tmp_path_factory.mktemp("kept")
    source = saved(folder / "model.safetensors", {**weights("sd1", "f2"), **schedule()})
    adapterhub.convert(source, folder / "folder", to="diffusers")
    return folder


@pytest.fixture
def folder(kept: Path, tmp_path: Path) -> Path:
    shutil.copytree(kept / "folder", tmp_path / "folder")
    return tmp_path / "folder"


def tree(path: Path) -> dict[str, bytes]:
    """Every file by its place, with its bytes."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def changed(path: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    saved(path, tensors)


def sharded(folder: Path, name: str) -> Path:
    """The weights of the UNet moved to the shard `name`, which an index names."""
    whole = folder / UNET_FILE
    shard = folder / "unet" / "diffusion_pytorch_model-00001-of-00001.safetensors"
    whole.rename(shard)
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(load_file(shard), name or shard.name)}))
    return shard


def outside(folder: Path) -> None:
    sharded(folder, "../../out.safetensors").rename(folder.parent / "out.safetensors")


def absolute(folder: Path) -> None:
    sharded(folder, str(folder.parent / "out.safetensors")).rename(folder.parent / "out.safetensors")


def link(folder: Path) -> None:
    shard = sharded(folder, "")
    shard.rename(folder.parent / "out.safetensors")
    shard.symlink_to(folder.parent / "out.safetensors")


def link_to_a_component(folder: Path) -> None:
    shutil.move(folder / "vae", folder.parent / "vae")
    (folder / "vae").symlink_to(folder.parent / "vae")


def missing_shard(folder: Path) -> None:
    sharded(folder, "").unlink()


def in_two_shards(folder: Path) -> None:
    shard = sharded(folder, "")
    index = json.loads((folder / INDEX).read_text())["weight_map"]
    other = "diffusion_pytorch_model-00002-of-00002.safetensors"
    (folder / INDEX).write_text(json.dumps({"weight_map": {**index, "conv_in.bias": other}}))
    shutil.copy(shard, shard.with_name(other))


def missing_component(folder: Path) -> None:
    (folder / VAE_FILE).unlink()


def half(folder: Path) -> None:
    os.truncate(folder / UNET_FILE, (folder / UNET_FILE).stat().st_size // 2)


def two_names_for_one_weight(folder: Path) -> None:
    old = {"to_q": "query", "to_out.0": "proj_attn"}
    changed(folder / VAE_FILE, lambda tensors: tensors.update(
        {name.replace(now, then): tensor for now, then in old.items() for name, tensor in tensors.items() if now in name}
    ))  # fmt: skip


def a_weight_kept_aside(folder: Path) -> None:
    beside = {"model.diffusion_model.out.2.bias": np.float16([6, 6])}
    saved(folder / "adapterhub_aside.safetensors", beside)


def a_name_of_the_other_layout(folder: Path) -> None:
    changed(folder / UNET_FILE, lambda tensors: tensors.update({"out.2.bias": np.float16([6, 6])}))


def a_component_of_another_model(folder: Path) -> None:
    (folder / "text_encoder_2").mkdir()
    shutil.copy(folder / "text_encoder/model.safetensors", folder / "text_encoder_2/model.safetensors")


def a_component_that_is_not_known(folder: Path) -> None:
    (folder / "transformer").mkdir()
    saved(folder / "transformer/diffusion_pytorch_model.safetensors", {"pos_embed.proj.weight": np.ones(2, "f4")})


FOLDERS = {
    outside: "leads out of the folder", absolute: "leads out of the folder", link: "is a link out of the folder",
    link_to_a_component: "is a link out of the folder", missing_shard: "is not there",
    in_two_shards: "where the index does not put them", missing_component: "vae/*.safetensors is missing", half: "after its length",
    two_names_for_one_weight: "8 tensors have no place of their own in sd1",
    a_weight_kept_aside: "1 tensors have no place of their own in sd1",
    a_name_of_the_other_layout: "1 tensors have no place of their own in sd1",
    a_component_of_another_model: "196 tensors have no place of their own in sd1",
    a_component_that_is_not_known: "a diffusers model",
}  # fmt: skip


@pytest.mark.parametrize(("break_it", "said"), FOLDERS.items(), ids=lambda case: getattr(case, "__name__", ""))
def test_a_folder_that_is_broken_or_lies_is_refused(break_it, said, folder, cli):
    break_it(folder)
    before = tree(folder.parent)
    done = cli("convert", folder, "-o", folder.parent / "new.safetensors", "--to", "single-file")
    assert (done.status, "Traceback" in done.err) == (3, False)
    assert said in done.err
    assert tree(folder.parent) == before


def sdxl_text(tensors: Tensors) -> None:
    tensors |= {place: tensor for place, tensor in weights("sdxl", "f2").items() if "embedders.1" in place}


def sdxl_text_in_place_of_the_own(tensors: Tensors) -> None:
    for place in [place for place in tensors if place.startswith("cond_stage_model")]:
        del tensors[place]
    sdxl_text(tensors)


@pytest.mark.parametrize("mix", [sdxl_text, sdxl_text_in_place_of_the_own])
@pytest.mark.parametrize("to", ["diffusers", "single-file"])
def test_a_text_encoder_of_sdxl_in_a_file_of_sd1_is_refused(mix, to, kept, tmp_path, cli):
    tensors = weights("sd1", "f2")
    mix(tensors)
    source = saved(tmp_path / "mixed.safetensors", tensors)
    done = cli("convert", source, "-o", tmp_path / ("new" if to == "diffusers" else "new.safetensors"), "--to", to)
    assert (done.status, [path.name for path in tmp_path.iterdir()]) == (3, ["mixed.safetensors"])
    assert "components of several models in one file" in done.err
    assert "conditioner.embedders.1.model.* of Stable Diffusion XL 1.0 base" in done.err
    assert "model.diffusion_model.* of Stable Diffusion 1.x" in done.err


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.999])
def test_half_a_file_is_refused(share, kept, tmp_path, cli):
    source = tmp_path / "half.safetensors"
    whole = (kept / "model.safetensors").read_bytes()
    source.write_bytes(whole[: int(share * len(whole))])
    done = cli("convert", source, "-o", tmp_path / "new", "--to", "diffusers")
    assert (done.status, [path.name for path in tmp_path.iterdir()]) == (3, ["half.safetensors"])


WAYS: dict[str, tuple[str, str, str, tuple[int, ...]]] = {
    "file": ("folder", "new.safetensors", "single-file", (1,)),
    "folder": ("model.safetensors", "new", "diffusers", (1, 2, 4, 6, 12)),
}


DEATHS = [(*way[:3], time) for way in WAYS.values() for time in way[3]]


@pytest.mark.parametrize(("source", "target", "to", "time"), DEATHS)
def test_a_conversion_that_is_killed_leaves_no_target_and_the_next_one_clears_up(
    source, target, to, time, kept, tmp_path
):
    before, out = tree(kept), tmp_path / target
    child = os.fork()
    if not child:
        dies_at_sync(time)
        adapterhub.convert(kept / source, out, to=to)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert (left.name.startswith(f".{target}."), left.name.endswith(".partial")) == (True, True)
    assert tree(kept) == before
    adapterhub.convert(kept / source, out, to=to)
    assert [path.name for path in tmp_path.iterdir()] == [target]
    found, wanted = (tree(out), tree(kept / "folder")) if to == "diffusers" else (content(out), content(kept / "model.safetensors"))  # fmt: skip
    assert found == wanted


def dies_at_sync(time: int) -> None:
    """Lets this process be killed when it syncs its file number `time`, which then has all its bytes."""
    count, sync = 0, os.fsync

    def killed(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == time:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(descriptor)

    os.fsync = killed  # type: ignore[assignment]


@pytest.mark.parametrize(("source", "target", "to"), [way[:3] for way in WAYS.values()])
def test_without_space_nothing_is_written(source, target, to, kept, tmp_path):
    before, limits = tree(kept), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    try:
        with pytest.raises(MachineFailure, match="File too large"):
            adapterhub.convert(kept / source, tmp_path / target, to=to)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (list(tmp_path.iterdir()), tree(kept)) == ([], before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", disk], capture_output=True)
    if done.returncode:
        pytest.skip("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize(("source", "target", "to"), [way[:3] for way in WAYS.values()])
def test_a_full_disk_is_a_failure_of_the_machine(source, target, to, kept, small_disk, cli):
    before = tree(kept)
    done = cli("convert", kept / source, "-o", small_disk / target, "--to", to)
    assert (done.status, "No space left on device" in done.err) == (5, True)
    assert (list(small_disk.iterdir()), tree(kept)) == ([], before)


def test_the_source_is_never_the_target(kept, tmp_path, cli):
    before = tree(kept)
    for source, to in (("model.safetensors", "single-file"), ("folder", "diffusers")):
        done = cli("convert", kept / source, "-o", kept / source, "--to", to, "--force")
        assert (done.status, tree(kept) == before) == (2, True)
