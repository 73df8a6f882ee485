"""A folder is written like a file: whole or not at all, and never over what nobody agreed to lose."""

import ctypes
import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from adapterhub import files
from adapterhub.errors import MachineFailure, OutputExists, UsageError
from adapterhub.files import File, Package
from adapterhub.tensors import LazyTensor, from_bytes


def bytes_of(size: int) -> LazyTensor:
    return from_bytes("U8", (size,), os.urandom(size))


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def folder(*components: str, rank: int = 4) -> Package:
    weights = {
        f"{name}/adapter_model.safetensors": File({"x": bytes_of(rank)}, {"format": "pt"}) for name in components
    }
    return Package.new(weights, {f"{name}/adapter_config.json": {"r": rank, "name": "é"} for name in components})


def test_a_directory_is_written_with_its_documents_and_read_back(tmp_path: Path) -> None:
    package, target = folder("unet", "text_encoder"), tmp_path / "out"
    written = files.write(package, target)
    assert names(target) == [
        "text_encoder", "text_encoder/adapter_config.json", "text_encoder/adapter_model.safetensors",
        "unet", "unet/adapter_config.json", "unet/adapter_model.safetensors",
    ]  # fmt: skip
    assert (target / "unet/adapter_config.json").read_text() == '{\n  "r": 4,\n  "name": "é"\n}\n'
    assert written == {
        name: hashlib.sha256((target / name).read_bytes()).hexdigest()
        for name in ("unet/adapter_model.safetensors", "text_encoder/adapter_model.safetensors")
    }
    assert names(tmp_path)[0] == "out"
    with files.read(target) as back:
        assert back.container == "directory"
        assert back.documents == package.documents
        for name, file in package.files.items():
            assert back.files[name].tensors["x"].read() == file.tensors["x"].read()


def test_an_empty_folder_is_filled_and_a_link_to_one_is_not(tmp_path: Path) -> None:
    target, link = tmp_path / "out", tmp_path / "link"
    target.mkdir()
    link.symlink_to(target)
    with pytest.raises(OutputExists):
        files.write(folder("unet"), link)
    assert names(target) == []
    files.write(folder("unet"), target)
    assert (names(tmp_path)[0], len(names(target))) == ("link", 3)


def test_force_replaces_a_directory_that_holds_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "out"
    files.write(folder("unet", "text_encoder"), target)
    with pytest.raises(OutputExists):
        files.write(folder("unet", "text_encoder", rank=5), target)
    files.write(folder("unet", "text_encoder", rank=5), target, force=True)
    assert json.loads((target / "unet/adapter_config.json").read_text())["r"] == 5
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("stranger", ["notes.txt", "unet/notes.txt", ".hidden", "vae/adapter_model.safetensors"])
def test_force_does_not_replace_a_directory_with_other_things_in_it(tmp_path: Path, stranger: str) -> None:
    target = tmp_path / "out"
    files.write(folder("unet"), target)
    (target / stranger).parent.mkdir(exist_ok=True)
    (target / stranger).write_text("mine")
    before = {name: (target / name).read_bytes() for name in names(target) if (target / name).is_file()}
    with pytest.raises(UsageError, match="what would be lost"):
        files.write(folder("unet", rank=5), target, force=True)
    assert {name: (target / name).read_bytes() for name in names(target) if (target / name).is_file()} == before


def test_a_directory_that_holds_an_input_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out"
    files.write(folder("unet"), target)
    with files.read(target) as package, pytest.raises(UsageError, match="an input is never overwritten"):
        files.write(package, target, force=True)


def test_a_file_is_not_replaced_by_a_directory(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("old")
    with pytest.raises(UsageError, match="is no folder"):
        files.write(folder("unet"), tmp_path / "out", force=True)
    assert (tmp_path / "out").read_text() == "old"


@pytest.mark.parametrize("old", [False, True])
def test_a_directory_of_which_one_file_fails_is_not_written_at_all(tmp_path: Path, old: bool) -> None:
    target = tmp_path / "out"
    if old:
        files.write(folder("unet"), target)
    before = names(tmp_path)
    package = folder("unet", "text_encoder") if not old else folder("unet")
    broken = Package.new({**package.files, "unet/adapter_model.safetensors": File({"x": LazyTensor("F32", (), lambda: ())})},
                         package.documents)  # fmt: skip
    with pytest.raises(ValueError, match="gave 0 bytes"):
        files.write(broken, target, force=True)
    assert names(tmp_path) == before


@pytest.mark.parametrize("name", ["../x.safetensors", "/tmp/x.safetensors", "a/../../x", "", r"a\b", "C:x"])
def test_names_that_lead_out_of_the_directory_are_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="lead out of the folder"):
        files.write(Package.new({name: File({})}, container="directory"), tmp_path / "out")
    assert names(tmp_path) == []


def test_a_document_with_nan_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write(Package.new({"a": File({})}, {"b.json": float("nan")}), tmp_path / "out")
    assert names(tmp_path) == []


def test_a_folder_that_appears_while_writing_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "out"

    def chunks() -> tuple[bytes]:
        (target / "theirs").mkdir(parents=True)
        return (b"x",)

    package = Package.new({"a.safetensors": File({"x": LazyTensor("U8", (1,), chunks)})}, container="directory")
    with pytest.raises(OutputExists):
        files.write(package, target)
    assert names(tmp_path) == ["out", "out/theirs"]


def test_what_is_put_into_a_folder_while_it_is_replaced_is_not_lost(tmp_path: Path) -> None:
    target = tmp_path / "out"
    files.write(Package.new({"a.safetensors": File({})}, container="directory"), target)

    def chunks() -> tuple[bytes]:
        (target / "mine").write_text("mine")
        return (b"x",)

    package = Package.new({"a.safetensors": File({"x": LazyTensor("U8", (1,), chunks)})}, container="directory")
    with pytest.raises(UsageError, match="what would be lost: 'mine'"):
        files.write(package, target, force=True)
    assert names(tmp_path) == ["out", "out/a.safetensors", "out/mine"]


@pytest.mark.parametrize("missing", ["exchange", "the whole call"])
def test_where_folders_cannot_be_swapped_each_file_takes_the_place_of_its_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    class Library:
        """A C library of a system that knows only parts of renameat2."""

        def __init__(self, *_: object, **__: object) -> None:
            if missing == "exchange":
                self.renameat2 = self._refuse

        def _refuse(self, *_: object) -> int:
            ctypes.set_errno(errno.EINVAL)
            return -1

    target = tmp_path / "out"
    monkeypatch.setattr(ctypes, "CDLL", Library)
    files.write(folder("unet", "text_encoder"), target)
    files.write(folder("unet", "text_encoder", rank=5), target, force=True)
    assert json.loads((target / "unet/adapter_config.json").read_text())["r"] == 5
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(OutputExists):
        files.write(folder("unet"), target)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a folder of Linux, in which nothing can be made")
def test_a_folder_in_which_nothing_can_be_made_is_said() -> None:
    with pytest.raises(MachineFailure, match=r"cannot write /proc/x\.safetensors"):
        files.write(Package.new({"any": File({"a": from_bytes("U8", (1,), b"1")})}), Path("/proc/x.safetensors"))
