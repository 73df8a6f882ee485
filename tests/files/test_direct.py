"""Past the system's cache: whole pages go one way and the rest another, and every byte is where it belongs."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterhub import files
from adapterhub.errors import AdapterhubError
from adapterhub.files import DIRECTORY, File, Package
from adapterhub.files import direct as direct_module
from adapterhub.files.direct import ROOM, Direct, DirectStream, direct, room
from adapterhub.files.source import Range, Source
from adapterhub.tensors import from_bytes

PAGE = mmap.PAGESIZE
_RANDOM = os.urandom(3 * ROOM)


@contextmanager
def opened(path: Path) -> Iterator[tuple[int, int]]:
    """A file of 13 bytes, and two descriptors of it."""
    path.write_bytes(b"what is there")
    descriptors = os.open(path, os.O_RDWR), os.open(path, os.O_WRONLY)
    try:
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def told(_: int) -> None:
    """Nobody listens."""


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 2 * ROOM), st.booleans()), max_size=5), st.integers(0, 3 * PAGE), st.data())
def test_every_byte_is_written_once_and_whole_pages_by_the_other_descriptor(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, bool]], at: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("x")
    (folder / "source").write_bytes(_RANDOM)
    written: list[tuple[int, int, int]] = []
    given_pwrite = os.pwrite

    def pwrite(descriptor: int, view: memoryview, start: int) -> int:
        count = min(len(view), data.draw(st.sampled_from([len(view), PAGE])))  # the system may write a part
        written.append((descriptor, start, count))
        return given_pwrite(descriptor, view[:count], start)

    expected, advanced = b"", 0

    def advance(count: int) -> None:
        nonlocal advanced
        advanced += count

    source = Source(folder / "source")
    with opened(folder / "out") as (descriptor, past), pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct_module.os, "pwrite", pwrite)
        file = Direct(descriptor, past)
        stream = DirectStream(file, at, room(), advance)
        for size, copied in pieces:
            if copied:
                stream.copy(Range(source, 5, size))
            else:
                stream.put(_RANDOM[5 : 5 + size])
            expected += _RANDOM[5 : 5 + size]
        stream.end()
        assert {number for number, *_ in written} <= {past}
        file.finish()
    source.close()
    before = b"what is there"[:at].ljust(at, b"\0")
    assert not expected or (folder / "out").read_bytes()[: at + len(expected)] == before + expected
    assert advanced == len(expected) == sum(count for *_, count in written)
    for number, start, count in written:
        whole = start % PAGE == 0 and count % PAGE == 0
        assert whole if number == past else count < 2 * PAGE


def test_the_memory_begins_at_a_page_and_holds_whole_ones() -> None:
    import numpy as np

    assert np.frombuffer(room(), np.uint8).ctypes.data % PAGE == 0
    assert ROOM % PAGE == 0


@pytest.mark.parametrize("reason", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_disk_that_it_does_not_suit_is_written_through_the_cache(
    reason: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_pwrite, refused = os.pwrite, []
    with opened(tmp_path / "out") as (descriptor, past):

        def pwrite(number: int, view: memoryview, start: int) -> int:
            if number == past:
                refused.append(start)
                raise OSError(reason, "not so")
            return given_pwrite(number, view, start)

        monkeypatch.setattr(direct_module.os, "pwrite", pwrite)
        stream = DirectStream(Direct(descriptor, past), 0, room(), told)
        stream.put(_RANDOM)
        stream.end()
    assert refused == [0, ROOM, 2 * ROOM]
    assert (tmp_path / "out").read_bytes() == _RANDOM


def test_a_full_disk_is_no_reason_to_try_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    with opened(tmp_path / "out") as (descriptor, past):
        monkeypatch.setattr(direct_module.os, "pwrite", full)
        stream = DirectStream(Direct(descriptor, past), 0, room(), told)
        with pytest.raises(OSError, match="full"):
            stream.put(_RANDOM)


@pytest.fixture
def on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Small files are large enough; what was opened past the cache, where this system does that."""
    monkeypatch.setattr(direct_module, "_LEAST", 0)
    with opened(tmp_path / "try") as (descriptor, _):
        found = direct(descriptor)
        if found is None:
            pytest.skip("this folder is not on a disk that is written past the cache")
        found.close()
    (tmp_path / "try").unlink()
    known: list[int] = []
    given_open, past_the_cache = os.open, os.O_DIRECT

    def noting(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        descriptor = given_open(path, flags, *rest, **more)
        if flags & past_the_cache:
            known.append(descriptor)
        return descriptor

    monkeypatch.setattr(direct_module.os, "open", noting)
    yield known
    for descriptor in known:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def package(seed: int) -> Package:
    sizes = [ROOM + 3, 5, 0, 2 * ROOM, PAGE, 3 * PAGE + 1, 2 << 20]
    made = {f"{number}.safetensors": File({f"{at}": from_bytes("U8", (size,), _RANDOM[at + seed : at + seed + size])
                                           for at, size in enumerate(sizes)})
            for number in range(2)}  # fmt: skip
    return Package.new(made, container=DIRECTORY)


@pytest.mark.parametrize("threads", [2, 3])
def test_a_folder_is_the_same_as_through_the_cache(on_disk: list[int], tmp_path: Path, threads: int) -> None:
    files.write(package(7), tmp_path / "past", digest=False, threads=threads)
    assert len(on_disk) == 2
    files.write(package(7), tmp_path / "through", digest=False, threads=threads, again=True)
    assert len(on_disk) == 2
    for name in ("0.safetensors", "1.safetensors"):
        assert (tmp_path / "past" / name).read_bytes() == (tmp_path / "through" / name).read_bytes()


def test_what_fails_closes_what_was_opened(on_disk: list[int], tmp_path: Path) -> None:
    wrong = from_bytes("U8", (5,), b"12345")
    broken = File({"a": package(1).files["0.safetensors"].tensors["0"], "b": wrong}, late=_fails)
    with pytest.raises(ValueError, match="late"):
        files.write(Package.new({"x": broken}), tmp_path / "out.safetensors", digest=False, threads=2)
    assert on_disk
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["memory", "threads"])
def test_a_lack_of_memory_or_threads_is_an_error_and_no_endless_wait(
    on_disk: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    begun: list[threading.Thread] = []
    given_start = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        begun.append(thread)
        if len(begun) == 3:  # the first one here waits, and the second one writes
            raise RuntimeError("can't start new thread")
        given_start(thread)

    def no_memory(*_: int) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    raised: list[BaseException] = []

    def write() -> None:
        try:
            files.write(package(1), tmp_path / "out", digest=False, threads=2)
        except (OSError, RuntimeError, AdapterhubError) as error:
            raised.append(error)

    waiting = threading.Thread(target=write, daemon=True)
    with monkeypatch.context() as patch:
        if what == "memory":
            patch.setattr(direct_module.mmap, "mmap", no_memory)
        else:
            patch.setattr(threading.Thread, "start", start)
        waiting.start()
        waiting.join(20)
    assert [str(error) for error in raised if "memory" in str(error) or "thread" in str(error)]
    assert not [thread for thread in begun[1:] if thread.is_alive()]
    assert list(tmp_path.iterdir()) == []


def _fails() -> dict[str, str]:
    raise ValueError("late")


@pytest.mark.parametrize(
    "unwanted",
    [
        lambda patch: patch.setenv("ADAPTERHUB_DIRECT", "0"),
        lambda patch: patch.setattr(direct_module, "_LEAST", 1 << 40),
        lambda patch: patch.delattr(direct_module.os, "O_DIRECT"),
        lambda patch: patch.setattr(direct_module.os, "major", lambda _: 0),
    ],
)
def test_whoever_does_not_want_it_or_cannot_have_it_writes_as_ever(
    on_disk: list[int], unwanted: Callable[[pytest.MonkeyPatch], None], tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        unwanted(patch)
        files.write(package(3), tmp_path / "out", digest=False, threads=2)
    assert not on_disk
    with files.read(tmp_path / "out" / "1.safetensors") as again:
        assert again.only.tensors["3"].read() == _RANDOM[6 : 6 + 2 * ROOM]


def test_a_system_that_refuses_to_open_it_so_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_module, "_LEAST", 0)
    monkeypatch.setattr(direct_module.os, "major", lambda _: 1)

    def refused(*_: object) -> int:
        raise OSError(errno.EINVAL, "not here")

    with opened(tmp_path / "out") as (descriptor, _):
        monkeypatch.setattr(direct_module.os, "open", refused)
        assert direct(descriptor) is None
