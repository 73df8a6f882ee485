"""Bytes on their way into a file: small ones gathered, large ones passed on, or copied by the system without coming here."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from threading import Condition, Lock, Thread
from types import TracebackType
from typing import Protocol

from adapterhub.files.progress import tell
from adapterhub.files.safetensors import shown
from adapterhub.files.source import PIECE, Range
from adapterhub.tensors import Buffer, LazyTensor

_GATHERED = 1 << 20
"""Bytes that are worth writing; a tensor above it is copied by the system."""
_PATIENCE = 4 << 20
"""Bytes that do not wait for a turn any longer."""
_FEW = 64
"""Pieces that are written one by one; more are joined."""
_SMALL = 1 << 12
"""Bytes up to which a piece is copied, which takes less memory than a view of it."""
_BEHIND = 16 << 20
"""Bytes after which the system is told to begin with writing them out, so that fsync has little left to wait for."""
_AT_ONCE = 64 << 20
"""Bytes that the system is asked to copy at a time, so that an interrupt does not wait for gigabytes."""
_NO_COPY = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.ETXTBSY)
_NO_ALLOCATION = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class Follower:
    """SHA-256 of what is written, one behind the other, behind `descriptor` from byte `start` on, read back on a thread of its
    own while more is written; `hexdigest` waits for it.
    """

    def __init__(self, descriptor: int, start: int = 0) -> None:
        import hashlib

        self._digest = hashlib.sha256()
        self._descriptor, self._at, self._end = descriptor, start, start
        self._ended = False
        self._told = Condition()
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def advance(self, count: int) -> None:
        """Says that so many bytes more are written."""
        with self._told:
            self._end += count
            self._told.notify()

    def hexdigest(self) -> str:
        self._stop()
        return self._digest.hexdigest()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        with self._told:
            self._ended = True
            self._told.notify()
        self._thread.join()

    def _run(self) -> None:
        buffer = memoryview(bytearray(PIECE))
        while count := self._ready():
            read = os.preadv(self._descriptor, [buffer[:count]], self._at)
            if not read:
                return
            self._digest.update(buffer[:read])
            self._at += read

    def _ready(self) -> int:
        """How many bytes are to be read next: a piece, or what is left at the end."""
        with self._told:
            self._told.wait_for(lambda: self._ended or self._end - self._at >= PIECE)
            return min(PIECE, self._end - self._at)


class Sink(Protocol):
    """What takes the bytes of tensors, one behind the other."""

    def put(self, chunk: Buffer) -> None:
        """Takes bytes, which are not changed before the `end`."""

    def copy(self, run: Range) -> None:
        """Takes a run of bytes of another file."""

    def end(self) -> None:
        """Has taken all: now they are written."""


class Stream:
    """Writes what it is given, one behind the other, into the file behind `descriptor` from byte `at` on; `advanced` is told of
    the bytes that are written, and may stop it by raising. Where several write one file, they take turns: what `turn` keeps
    from being written waits for some time, for the system, too, lets one at a time do it.
    """

    def __init__(
        self, descriptor: int, at: int = 0, advanced: Callable[[int], None] = tell, turn: Lock | None = None
    ) -> None:
        self._descriptor, self._advanced, self._turn = descriptor, advanced, turn or Lock()
        self._gathered: list[Buffer] = []
        self._size = 0
        self._at = self._begun = at

    def put(self, chunk: Buffer) -> None:
        """Writes `chunk`, now or later: it may not be changed before `flush`."""
        size = memoryview(chunk).nbytes
        self._gathered.append(bytes(chunk) if size < _SMALL else chunk)
        self._size += size
        if self._size >= _PATIENCE or (self._size >= _GATHERED and not self._turn.locked()):
            self.flush()

    def copy(self, run: Range) -> None:
        """Writes a run of bytes of another file: the system copies them, and they never come here."""
        self.flush()
        start, left = run.start, run.length
        while left:
            try:
                count = os.copy_file_range(
                    run.source.descriptor, self._descriptor, min(left, _AT_ONCE), start, self._at
                )
            except OSError as error:
                if error.errno not in _NO_COPY:
                    raise
                count = 0
            if not count:  # another file system, or the end of the file: reading tells which
                for piece in run.source.pieces(start, left):
                    self.put(piece)
                return
            start, left = start + count, left - count
            self._advance(count)

    def flush(self) -> None:
        """Writes what was gathered."""
        gathered, self._gathered, self._size = self._gathered, [], 0
        with self._turn:
            for data in gathered if len(gathered) < _FEW else (b"".join(gathered),):
                view = memoryview(data).cast("B")
                while view:
                    count = os.pwrite(self._descriptor, view, self._at)
                    view = view[count:]
                    self._advance(count)

    def end(self) -> None:
        """Writes what was gathered, and is not used any more."""
        self.flush()
        self._begin_writeback(_GATHERED)

    def _advance(self, count: int) -> None:
        self._at += count
        self._advanced(count)
        self._begin_writeback(_BEHIND)

    def _begin_writeback(self, least: int) -> None:
        """Linux begins to write out dirty pages that are no longer wanted; only clean ones are dropped."""
        ahead = self._at - self._begun
        if ahead >= least and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, self._begun, ahead, os.POSIX_FADV_DONTNEED)
            self._begun = self._at


def write_all(descriptor: int, data: Buffer) -> None:
    """Writes all of `data`, however little the system takes at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_at(descriptor: int, data: Buffer, at: int) -> None:
    """Writes all of `data` from byte `at` on."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, at)
        view, at = view[count:], at + count


def put_tensor(name: str, tensor: LazyTensor, sink: Sink) -> None:
    """Writes the bytes of `tensor`. ValueError if they are not as many as it promises."""
    if isinstance(tensor.chunks, Range) and tensor.nbytes == tensor.chunks.length > _GATHERED:
        sink.copy(tensor.chunks)
        return
    for chunk in whole(name, tensor):
        sink.put(chunk)


def put_all(tensors: Iterable[tuple[str, LazyTensor]], sink: Sink) -> None:
    """Writes tensors to the last byte."""
    for name, tensor in tensors:
        put_tensor(name, tensor, sink)
    sink.end()


def whole(name: str, tensor: LazyTensor) -> Iterator[Buffer]:
    """The bytes of `tensor` in chunks. ValueError behind the last if they are not as many as it promises."""
    given = 0
    for chunk in tensor.chunks():
        given += memoryview(chunk).nbytes
        yield chunk
    if given != tensor.nbytes:
        raise ValueError(f"tensor {shown(name)} gave {given} bytes instead of {tensor.nbytes}")


def allocate(descriptor: int, size: int) -> None:
    """Takes the space at once: a full disk is known before anything is written, and the file lies in one piece. Whoever
    watches is told that so much will be written.
    """
    tell(expected=size)
    if not hasattr(os, "posix_fallocate"):
        return
    if not os.major(
        os.fstat(descriptor).st_dev
    ):  # memory, or a network: there it would write zeros, which takes as long
        there = os.fstatvfs(descriptor)
        if there.f_bavail * there.f_frsize < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in _NO_ALLOCATION:
            raise


def sha256_of(descriptor: int) -> str:
    """The SHA-256 of the whole file behind `descriptor`."""
    with Follower(descriptor) as follower:
        follower.advance(os.fstat(descriptor).st_size)
        return follower.hexdigest()
