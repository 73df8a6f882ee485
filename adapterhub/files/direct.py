"""Bytes on their way to a disk, past the system's cache: a large file takes no memory of others, and no core to be copied there.

Linux' O_DIRECT: what is written so begins and ends at whole pages, in the file and in memory; a page that two share goes
through the cache. https://man7.org/linux/man-pages/man2/open.2.html
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from contextlib import suppress

from adapterhub.files.source import Range
from adapterhub.files.streaming import write_at
from adapterhub.tensors import Buffer

ROOM = 4 << 20
"""Bytes that are written at a time: whole pages."""
_LEAST = 64 << 20
"""Bytes of a file that is worth it; a smaller one may be wanted again soon, and is written soon either way."""
_UNFIT = (errno.EINVAL, errno.EOPNOTSUPP)
"""A disk of larger pages, or one that does not do it after all."""


def direct(descriptor: int) -> Direct | None:
    """The file behind `descriptor`, to be written past the cache; None where that is not to be had: for small files, in memory,
    over networks, and not on Linux. `ADAPTERHUB_DIRECT=0` says that it is not wanted.
    """
    found = os.fstat(descriptor)
    on_disk = hasattr(os, "O_DIRECT") and os.major(found.st_dev)
    if found.st_size < _LEAST or not on_disk or os.environ.get("ADAPTERHUB_DIRECT") == "0":
        return None
    with suppress(OSError):
        return Direct(descriptor, os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC))
    return None


def room() -> memoryview:
    """Memory for `DirectStream`, which begins at a page."""
    return memoryview(mmap.mmap(-1, ROOM))


class Direct:
    """One file that several write, through `past` what is whole pages. The rest waits for the end, and goes through
    `descriptor`: for a write through the cache the system has all others wait.
    """

    def __init__(self, descriptor: int, past: int) -> None:
        self._descriptor, self._past = descriptor, past
        self._edges: list[tuple[memoryview, int]] = []

    def write(self, pages: memoryview, at: int) -> None:
        """Writes whole pages."""
        try:
            write_at(self._past, pages, at)
        except OSError as error:
            if error.errno not in _UNFIT:
                raise
            write_at(self._descriptor, pages, at)

    def keep(self, edge: memoryview, at: int) -> None:
        """Takes a copy of less than a page, or of what lies in two."""
        if edge:
            self._edges.append((memoryview(bytes(edge)), at))

    def finish(self) -> None:
        """Writes what was kept."""
        for edge, at in self._edges:
            write_at(self._descriptor, edge, at)

    def close(self) -> None:
        """Lets go of what was opened for it."""
        os.close(self._past)


class DirectStream:
    """A `Stream` into a `Direct` file; `memory` is a `room` that nobody else uses meanwhile."""

    def __init__(self, file: Direct, at: int, memory: memoryview, advanced: Callable[[int], None]) -> None:
        self._file, self._memory, self._advanced = file, memory, advanced
        self._begun = self._end = at
        self._base = _page(at)
        """Where in the file `memory` begins."""

    def put(self, chunk: Buffer) -> None:
        """Copies `chunk` on its way."""
        view = memoryview(chunk).cast("B")
        while view:
            place = self._place(len(view))
            place[:] = view[: len(place)]
            view = view[len(place) :]
            self._filled(len(place))

    def copy(self, run: Range) -> None:
        """Reads a run of bytes of another file to where they are written from."""
        start, left = run.start, run.length
        while left:
            place = self._place(left)
            run.source.read_into(start, place)
            start, left = start + len(place), left - len(place)
            self._filled(len(place))

    def end(self) -> None:
        """Writes the last bytes, and is not used any more."""
        self._flush()

    def _place(self, size: int) -> memoryview:
        """Where the next bytes go: at most `size`, at least one."""
        return self._memory[self._end - self._base :][:size]

    def _filled(self, count: int) -> None:
        self._end += count
        if self._end - self._base == ROOM:
            self._flush()

    def _flush(self) -> None:
        first, last = _page(self._begun + mmap.PAGESIZE - 1), _page(self._end)
        if first < last:
            self._file.keep(self._held(self._begun, first), self._begun)
            self._file.write(self._held(first, last), first)
            self._file.keep(self._held(last, self._end), last)
        else:
            self._file.keep(self._held(self._begun, self._end), self._begun)
        self._advanced(self._end - self._begun)
        self._begun = self._end
        self._base = _page(self._end)

    def _held(self, start: int, end: int) -> memoryview:
        """The bytes from `start` to `end` of the file."""
        return self._memory[start - self._base : end - self._base]


def _page(at: int) -> int:
    """Where the page of byte `at` begins."""
    return at - at % mmap.PAGESIZE
