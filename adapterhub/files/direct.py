"""Bytes on their way to a disk, past the system's cache: a large file takes no memory of others, and no core to be copied there.

Linux' O_DIRECT: what is written so begins and ends at whole pages, in the file and in memory; pages that are shared with a
neighbour go through the cache. https://man7.org/linux/man-pages/man2/open.2.html
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from contextlib import suppress

from adapterhub.files.source import Range
from adapterhub.tensors import Buffer

ROOM = 4 << 20
"""Bytes that are written at a time: whole pages."""
_LEAST = 64 << 20
"""Bytes of a file that is worth it; a smaller one may be wanted again soon, and is written soon either way."""
_UNFIT = (errno.EINVAL, errno.EOPNOTSUPP)
"""A disk of larger pages, or one that does not do it after all."""


def direct(descriptor: int) -> int | None:
    """A second descriptor of the file behind `descriptor`, that writes past the cache; None where that is not to be had: for
    small files, in memory, over networks, and not on Linux. `ADAPTERHUB_DIRECT=0` says that it is not wanted.
    """
    found = os.fstat(descriptor)
    on_disk = hasattr(os, "O_DIRECT") and os.major(found.st_dev)
    if found.st_size < _LEAST or not on_disk or os.environ.get("ADAPTERHUB_DIRECT") == "0":
        return None
    with suppress(OSError):
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    return None


def room() -> memoryview:
    """Memory for `DirectStream`, which begins at a page."""
    return memoryview(mmap.mmap(-1, ROOM))


class DirectStream:
    """A `Stream` whose whole pages are written by `direct`; `memory` is a `room` that nobody else uses meanwhile."""

    def __init__(
        self, descriptor: int, direct: int, at: int, memory: memoryview, advanced: Callable[[int], None]
    ) -> None:
        self._descriptor, self._direct = descriptor, direct
        self._memory, self._advanced = memory, advanced
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
            self._write(self._descriptor, self._begun, first)
            self._write_pages(first, last)
            self._write(self._descriptor, last, self._end)
        else:
            self._write(self._descriptor, self._begun, self._end)
        self._advanced(self._end - self._begun)
        self._begun = self._end
        self._base = _page(self._end)

    def _write_pages(self, start: int, end: int) -> None:
        try:
            self._write(self._direct, start, end)
        except OSError as error:
            if error.errno not in _UNFIT:
                raise
            self._direct = self._descriptor
            self._write(self._direct, start, end)

    def _write(self, descriptor: int, start: int, end: int) -> None:
        view = self._memory[start - self._base : end - self._base]
        while view:
            count = os.pwrite(descriptor, view, start)
            view, start = view[count:], start + count


def _page(at: int) -> int:
    """Where the page of byte `at` begins."""
    return at - at % mmap.PAGESIZE
