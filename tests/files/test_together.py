"""Several threads write the same files: every byte in its place, whatever order; the first error stops all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adapterhub
from adapterhub import files
from adapterhub.files import DIRECTORY, File, Package
from adapterhub.files.streaming import Stream
from adapterhub.files.together import parts
from adapterhub.tensors import Buffer, LazyTensor, from_bytes

MIB = 1 << 20


def content(size: int, seed: int) -> bytes:
    return bytes([seed % 251]) * size


def tensor(size: int, seed: int = 7) -> LazyTensor:
    return from_bytes("U8", (size,), content(size, seed))


def computed(size: int, chunks: Callable[[], Iterable[Buffer]]) -> LazyTensor:
    return LazyTensor("U8", (size,), chunks)


def package(sizes: list[int], count: int = 1) -> Package:
    made = {f"{number}.safetensors": File({f"{at:03}": tensor(size, at + number) for at, size in enumerate(sizes)})
            for number in range(count)}  # fmt: skip
    return Package.new(made, container=DIRECTORY if count > 1 else files.SAFETENSORS)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 3 * MIB // 2), max_size=8), st.integers(1, 5), st.integers(2, 4))
def test_what_several_threads_write_is_what_one_writes(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], count: int, threads: int
) -> None:
    folder = tmp_path_factory.mktemp("x")
    for name, number in (("one", 1), ("several", threads)):
        files.write(package(sizes, count), folder / name, digest=False, threads=number)
    for path in sorted((folder / "one").rglob("*")) if count > 1 else [folder / "one"]:
        assert path.read_bytes() == (folder / "several" / path.relative_to(folder / "one")).read_bytes()


@given(st.lists(st.integers(0, 3 * MIB), max_size=12), st.integers(0, 100))
def test_parts_are_all_tensors_in_order_each_where_the_last_one_ended(sizes: list[int], start: int) -> None:
    named = [(str(number), computed(size, tuple)) for number, size in enumerate(sizes)]
    found = list(parts(3, start, named))
    assert [one for part in found for one in part.tensors] == named
    ends = [start, *(part.at + part.size for part in found)]
    assert [part.at for part in found] == ends[:-1]
    assert all(part.size <= 4 * MIB or len(part.tensors) == 1 for part in found)


def test_whatever_lies_in_another_file_is_copied_while_others_compute(tmp_path: Path) -> None:
    files.write(package([2 * MIB, 5, 2 * MIB]), tmp_path / "from.safetensors")
    with files.read(tmp_path / "from.safetensors") as opened:
        held = dict(opened.only.tensors)
        held["computed"] = tensor(2 * MIB, 9)
        files.write(Package.new({"x": File(held)}), tmp_path / "to.safetensors", digest=False, threads=3)
        with files.read(tmp_path / "to.safetensors") as again:
            assert {name: one.read() for name, one in again.only.tensors.items()} == {
                name: one.read() for name, one in held.items()
            }


def test_more_files_than_may_be_open_are_written(tmp_path: Path) -> None:
    files.write(package([10], 70), tmp_path / "many", digest=False, threads=2)
    assert len(list((tmp_path / "many").iterdir())) == 70
    with files.read(tmp_path / "many" / "69.safetensors") as one:
        assert one.only.tensors["000"].read() == content(10, 69)


def test_the_first_error_is_raised_stops_all_and_leaves_nothing(tmp_path: Path) -> None:
    begun: list[int] = []
    failed = threading.Event()
    before = set(threading.enumerate())

    def fails() -> Iterator[Buffer]:
        yield content(MIB, 1)
        failed.set()
        raise ValueError("three")

    def slow(number: int) -> Iterator[Buffer]:
        begun.append(number)
        failed.wait(10)
        yield content(2 * MIB, 1)

    held = {"a": computed(2 * MIB, fails)}
    held |= {f"b{number:03}": computed(2 * MIB, lambda number=number: slow(number)) for number in range(200)}
    with pytest.raises(ValueError, match="three"):
        files.write(Package.new({"x": File(held)}), tmp_path / "out.safetensors", digest=False, threads=2)
    assert len(begun) < 100
    assert list(tmp_path.iterdir()) == []
    assert set(threading.enumerate()) == before


def test_a_tensor_that_gives_too_much_is_refused(tmp_path: Path) -> None:
    held = {"a": computed(MIB, lambda: [content(MIB, 1), b"1"]), "b": tensor(MIB)}
    with pytest.raises(ValueError, match="'a' gave 1048577 bytes instead of 1048576"):
        files.write(Package.new({"x": File(held)}), tmp_path / "out.safetensors", digest=False, threads=2)
    assert list(tmp_path.iterdir()) == []


def test_what_watches_is_told_every_byte_in_its_own_thread_and_may_stop_it(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    threads: set[threading.Thread] = set()

    def listen(done: int, expected: int) -> None:
        threads.add(threading.current_thread())
        told.append((done, expected))

    out = tmp_path / "out.safetensors"
    with adapterhub.watched(listen):
        files.write(package([MIB, 3, 2 * MIB]), out, digest=False, threads=2)
    assert sum(done for done, _ in told) == sum(expected for _, expected in told) == out.stat().st_size
    assert threads == {threading.current_thread()}

    def stop(done: int, expected: int) -> None:
        if done > MIB:
            raise KeyboardInterrupt

    with adapterhub.watched(stop), pytest.raises(KeyboardInterrupt):
        files.write(package([MIB, 3, 2 * MIB]), tmp_path / "stopped.safetensors", digest=False, threads=2)
    assert list(tmp_path.iterdir()) == [out]


def test_what_may_not_be_written_yet_waits_until_its_turn_comes_or_it_is_too_much(tmp_path: Path) -> None:
    turn = threading.Lock()
    path = tmp_path / "out"
    with path.open("wb", buffering=0) as file:
        stream = Stream(file.fileno(), 2, turn=turn)
        with turn:
            for number in range(3):
                stream.put(content(MIB, number))
            assert path.stat().st_size == 0
            last = threading.Thread(target=stream.put, args=(content(MIB, 3),))
            last.start()
            last.join(0.05)
            assert last.is_alive()
        last.join()
        assert path.read_bytes() == b"\0\0" + b"".join(content(MIB, number) for number in range(4))
        with turn:
            stream.put(content(MIB, 4))
        stream.put(b"end")
        assert path.read_bytes()[2 + 4 * MIB :] == content(MIB, 4) + b"end"
