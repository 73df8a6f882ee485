"""One open file: one descriptor, positioned reads, and a memory of what the file was when it was opened.

Never mapped into memory: others may write the file, and a truncation would kill the process.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PosixPath
from typing import Protocol

from adapterhub.errors import MachineFailure, MalformedFile, UsageError

PIECE = 4 << 20
"""Bytes of one read; a tensor above it comes in several pieces."""


@contextmanager
def machine(action: str, path: Path | str) -> Iterator[None]:
    """Turns an OSError inside into MachineFailure: "cannot `action` `path`: …"."""
    try:
        yield
    except OSError as error:
        raise _failure(action, path, error) from error


def _failure(action: str, path: Path | str, error: OSError) -> MachineFailure:
    return MachineFailure(f"cannot {action} {path}: {error.strerror or error}")


class Source:
    """The regular file at `path`, open for reading.

    Raises UsageError where there is none, MalformedFile (rule `not-a-regular-file`) for a folder, FIFO, device or
    socket, which is never opened, and MachineFailure where the system refuses.
    """

    __slots__ = ("_identity", "descriptor", "path", "size")

    def __init__(self, path: Path) -> None:
        self.descriptor = -1
        self.path = path
        with machine("open", path):
            self._require_regular(_stat(path))
            self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            opened = os.fstat(self.descriptor)
        self._require_regular(opened)
        self._identity = _identity(opened)
        self.size = opened.st_size

    def _require_regular(self, found: os.stat_result) -> None:
        if stat.S_ISREG(found.st_mode):
            return
        self.close()
        message, mend = "this is no regular file", "Give a file, or a copy of the stream."
        if stat.S_ISDIR(found.st_mode):
            message, mend = "this is a folder, and a file is wanted", "Give a file that lies in it."
        raise MalformedFile(self.path, "not-a-regular-file", message, mend=mend)

    def read(self, start: int, length: int) -> bytes:
        """Exactly `length` bytes from `start`; a file that has become shorter is refused."""
        self._require_open()
        parts: list[bytes] = []
        while length:
            try:
                part = os.pread(self.descriptor, length, start)
            except OSError as error:
                raise _failure("read", self.path, error) from error
            if not part:
                raise self._changed()
            if len(part) == length and not parts:
                return part
            parts.append(part)
            start, length = start + len(part), length - len(part)
        return b"".join(parts)

    def read_into(self, start: int, memory: memoryview) -> None:
        """Fills `memory`, of bytes, from `start` on: as `read`, without memory of its own."""
        self._require_open()
        while memory:
            with machine("read", self.path):
                count = os.preadv(self.descriptor, [memory], start)
            if not count:
                raise self._changed()
            memory, start = memory[count:], start + count

    def _require_open(self) -> None:
        if self.descriptor < 0:
            raise ValueError(f"{self.path} is closed")

    def pieces(self, start: int, length: int) -> Iterable[bytes]:
        """`length` bytes from `start` in pieces of at most PIECE."""
        if length <= PIECE:
            return (self.read(start, length),)
        return (self.read(at, min(PIECE, start + length - at)) for at in range(start, start + length, PIECE))

    def ensure_unchanged(self) -> None:
        """Raises MalformedFile (rule `changed-while-reading`) if size, time or inode differ from when it was opened."""
        try:
            now = {_identity(os.fstat(self.descriptor)), _identity(os.stat(self.path))}
        except OSError:
            raise self._changed() from None
        if now != {self._identity}:
            raise self._changed()

    def close(self, close: Callable[[int], None] = os.close) -> None:
        """Closes the descriptor; `close` is bound here because `os` may be gone when the interpreter ends."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            close(descriptor)

    def __del__(self) -> None:
        self.close()

    def _changed(self) -> MalformedFile:
        return MalformedFile(
            self.path, "changed-while-reading", "the file changed while it was read",
            mend="Wait until whoever writes it is done, then run the command again.",
        )  # fmt: skip


class Address(PosixPath):
    """What is called by a path where it lies, and is not on this disk: `hf://user/name/file`, `https://host/file`."""

    def __str__(self) -> str:
        """With both slashes, which a path would lose."""
        return super().__str__().replace(":/", "://", 1)


class Bytes(Protocol):
    """What can be read in parts, wherever it lies; each raises errors of ours."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def read(self, start: int, length: int) -> bytes:
        """Exactly `length` bytes from `start`."""

    def fetch(self, spans: Sequence[tuple[int, int]]) -> bool:
        """Gets all of `spans` (start, length) ahead if that is cheap; else False, and only what is there is read then."""

    def close(self) -> None:
        """Lets go of it."""


class Elsewhere(Source):
    """A file that is not on this disk, `content` being its bytes."""

    __slots__ = ("content",)

    def __init__(self, address: Address, content: Bytes) -> None:
        self.descriptor = -1
        self.path = address
        self.content = content
        self.size = content.size

    def read(self, start: int, length: int) -> bytes:
        """Exactly `length` bytes from `start`."""
        return self.content.read(start, length)

    def read_into(self, start: int, memory: memoryview) -> None:
        """Fills `memory` from `start` on."""
        memory[:] = self.read(start, len(memory))

    def fetch(self, spans: Sequence[tuple[int, int]]) -> bool:
        """Gets `spans` ahead, if that is cheap."""
        return self.content.fetch(spans)

    def ensure_unchanged(self) -> None:
        """Whoever reads the bytes sees to that: every part is of the same version."""

    def close(self, close: Callable[[int], None] = os.close) -> None:
        """Lets go of the bytes."""
        self.content.close()


@dataclass(slots=True, eq=False)
class Range:
    """A run of bytes in an open file: called, it reads them; who writes a file may have the system copy them."""

    source: Source
    start: int
    length: int

    def __call__(self) -> Iterable[bytes]:
        if self.length > PIECE:
            return self.source.pieces(self.start, self.length)
        return (self.source.read(self.start, self.length),)

    def read_into(self, memory: memoryview) -> None:
        """Reads them into `memory`, which has as many bytes."""
        self.source.read_into(self.start, memory)

    def part(self, start: int, length: int) -> Range:
        """`length` bytes from the `start`-th of these."""
        return Range(self.source, self.start + start, length)


def read_each(ranges: Iterable[Range]) -> list[bytes]:
    """The bytes of each of some small ranges; those that follow each other in a file are read at once."""
    found: list[bytes] = []
    for run in _runs(ranges):
        start = run[0].start
        data = run[0].source.read(start, run[-1].start + run[-1].length - start)
        found += [data[part.start - start : part.start - start + part.length] for part in run]
    return found


def _runs(ranges: Iterable[Range]) -> Iterator[list[Range]]:
    run: list[Range] = []
    for part in ranges:
        if run and (part.start != run[-1].start + run[-1].length or part.source is not run[-1].source):
            yield run
            run = []
        run.append(part)
    if run:
        yield run


def _stat(path: Path) -> os.stat_result:
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{path} does not exist") from None
    except ValueError as error:  # a NUL in the name
        raise UsageError(f"{str(path)!r} is no file name: {error}") from None


def _identity(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
