"""A merge that the machine stops, or somebody, leaves its inputs as they were and nothing new, neither model nor undo file."""

from __future__ import annotations

import errno
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapterhub import merge, unmerge, watched
from adapterhub.errors import AdapterhubError, MachineFailure, OutputExists
from adapterhub.files import publishing
from tests.hostile.disks import mounted
from tests.hostile.test_signals import ENDING, SLOW, started
from tests.operations.merge_files import base, lora

Tree = dict[str, bytes]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, two adapters, the first merged already, and what undoes that."""
    model, a = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    lora(tmp_path / "b.safetensors", 1)
    merge(model, [a], tmp_path / "out.safetensors", undo=tmp_path / "out.undo", architecture="sd1")
    return tmp_path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "8k") as disk:
        yield disk


def tree(folder: Path) -> Tree:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def again(folder: Path, name: str = "new", *, undo: Path | None = None, force: bool = False) -> None:
    """Merges the second adapter."""
    merge(folder / "base.safetensors", [folder / "b.safetensors"], folder / f"{name}.safetensors",
          undo=folder / f"{name}.undo" if undo is None else undo, architecture="sd1", force=force)  # fmt: skip


@pytest.mark.parametrize("name", ["new", "out"])
def test_without_space_for_the_model_nothing_is_written_or_replaced(folder: Path, name: str) -> None:
    before, limits = tree(folder), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    try:
        with pytest.raises(MachineFailure, match=rf"cannot write .*{name}\.safetensors: File too large"):
            again(folder, name, force=True)
        with pytest.raises(MachineFailure, match=r"cannot write .*back\.safetensors: File too large"):
            unmerge(folder / "out.safetensors", [], folder / "back.safetensors", undo=folder / "out.undo")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert tree(folder) == before


@pytest.mark.parametrize("name", ["new", "out"])
def test_without_space_for_the_undo_file_there_is_no_model(folder: Path, small_disk: Path, name: str) -> None:
    before = tree(folder)
    with pytest.raises(MachineFailure, match=r"cannot write .*there\.undo: No space left"):
        again(folder, name, undo=small_disk / "there.undo", force=True)
    assert (tree(folder), list(small_disk.iterdir())) == (before, [])


def meanwhile(work: Callable[[], object]) -> Callable[[int, int], None]:
    """Who watches, and works once when the first bytes are written."""
    done: list[object] = []

    def watch(written: int, expected: int) -> None:
        if written and not done:
            done.append(None)
            work()

    return watch


@pytest.mark.parametrize("name", ["base.safetensors", "b.safetensors"])
def test_an_input_that_changes_meanwhile_is_refused(folder: Path, name: str) -> None:
    before, path = tree(folder), folder / name

    def altered() -> None:
        with path.open("r+b") as stream:
            stream.seek(-1, 2)
            stream.write(b"\x01")

    with pytest.raises(AdapterhubError, match=rf"{name}.* (changed|is not the file)"), watched(meanwhile(altered)):
        again(folder)
    assert tree(folder).keys() == before.keys()


def test_what_somebody_puts_there_meanwhile_stays_and_no_undo_file_without_its_model(folder: Path) -> None:
    before, path = tree(folder), folder / "new.safetensors"
    with (
        pytest.raises(OutputExists, match=r"new\.safetensors exists"),
        watched(meanwhile(lambda: path.write_bytes(b"mine"))),
    ):
        again(folder)
    assert tree(folder) == {**before, path.name: b"mine"}


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
@pytest.mark.parametrize("there", [True, False], ids=["an undo file", "no undo file"])
def test_a_model_that_cannot_be_put_in_place_keeps_what_undoes_the_old_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, there: bool, links: bool
) -> None:
    def failing(temporary: Path, target: Path, *, force: bool) -> None:
        if target.suffix == ".safetensors":
            raise MachineFailure("the disk is gone")
        publish(temporary, target, force=force)

    def no_links(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    publish = publishing.publish_file
    monkeypatch.setattr(publishing, "publish_file", failing)
    if not links:
        monkeypatch.setattr(publishing.os, "link", no_links)
    if not there:
        (folder / "out.undo").unlink()
    before = tree(folder)
    with pytest.raises(MachineFailure, match="the disk is gone"):
        again(folder, "out", force=True)
    assert tree(folder) == before


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("given", [("merge", "base.safetensors", "b.safetensors:0.5"), ("unmerge", "out.safetensors", "--undo", "out.undo")],
                         ids=lambda given: given[0])  # fmt: skip
def test_who_is_asked_to_end_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, given: tuple
) -> None:
    before = tree(folder)
    monkeypatch.chdir(folder)
    process = started(SLOW.replace("60", "1"), *given, "-o", "new.safetensors")
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    told = "interrupted" if number == signal.SIGINT else f"interrupted by {number.name}"
    assert (process.returncode, said) == (ENDING[number], f"\nerror: {told}\n")
    assert tree(folder) == before
