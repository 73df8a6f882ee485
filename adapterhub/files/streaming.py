"""Bytes on their way into a file: small pieces gathered, large ones passed on, hashed on a second thread meanwhile."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from queue import Queue
from threading import Thread
from types import TracebackType

from adapterhub.files.safetensors import shown
from adapterhub.files.source import PIECE
from adapterhub.tensors import Buffer, LazyTensor

_GATHERED = 1 << 20
"""Bytes below which pieces are joined before they are written."""
_BEHIND = 16 << 20
"""Bytes after which the system is told to begin with writing them out, so that fsync has little left to wait for."""
_WAITING = 2
"""Pieces that may wait to be hashed: what bounds the memory."""
_NO_ALLOCATION = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class Hasher:
    """SHA-256 of what `update` is given, computed on a thread of its own; `hexdigest` waits for it."""

    def __init__(self) -> None:
        import hashlib

        self._digest = hashlib.sha256()
        self._waiting: Queue[bytes | None] = Queue(_WAITING)
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Hasher:
        self._thread.start()
        return self

    def update(self, piece: bytes) -> None:
        self._waiting.put(piece)

    def hexdigest(self) -> str:
        self._stop()
        return self._digest.hexdigest()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (piece := self._waiting.get()) is not None:
            self._digest.update(piece)


class Stream:
    """Appends to the file behind `descriptor`, and gives `hasher`, if there is one, the same bytes."""

    def __init__(self, descriptor: int, hasher: Hasher | None = None) -> None:
        self._descriptor, self._hasher = descriptor, hasher
        self._gathered: list[bytes] = []
        self._size = 0
        self._written = self._begun = 0

    def put(self, chunk: Buffer) -> None:
        """Writes `chunk`, now or later. It may be changed afterwards."""
        view = memoryview(chunk).cast("B")
        for start in range(0, len(view), PIECE):
            part = view[start : start + PIECE]
            self._put(chunk if isinstance(chunk, bytes) and len(part) == len(chunk) else bytes(part))

    def flush(self) -> None:
        """Writes what was gathered."""
        gathered, self._gathered, self._size = b"".join(self._gathered), [], 0
        self._write(gathered)

    def _put(self, piece: bytes) -> None:
        if self._size + len(piece) > _GATHERED:
            self.flush()
        if len(piece) > _GATHERED:
            self._write(piece)
        else:
            self._gathered.append(piece)
            self._size += len(piece)

    def _write(self, piece: bytes) -> None:
        if piece:
            if self._hasher:
                self._hasher.update(piece)
            write_all(self._descriptor, piece)
            self._written += len(piece)
            self._begin_writeback()

    def _begin_writeback(self) -> None:
        """Linux begins to write out dirty pages that are no longer wanted; only clean ones are dropped."""
        ahead = self._written - self._begun
        if ahead >= _BEHIND and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, self._begun, ahead, os.POSIX_FADV_DONTNEED)
            self._begun = self._written


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of `data`, however little the system takes at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def whole(name: str, tensor: LazyTensor) -> Iterator[Buffer]:
    """The bytes of `tensor` in chunks. ValueError behind the last if they are not as many as it promises."""
    given = 0
    for chunk in tensor.chunks():
        given += memoryview(chunk).nbytes
        yield chunk
    if given != tensor.nbytes:
        raise ValueError(f"tensor {shown(name)} gave {given} bytes instead of {tensor.nbytes}")


def allocate(descriptor: int, size: int) -> None:
    """Takes the space at once: a full disk is known before anything is written, and the file lies in one piece."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in _NO_ALLOCATION:
            raise


def sha256_of(descriptor: int) -> str:
    """The SHA-256 of the whole file behind `descriptor`."""
    with Hasher() as hasher:
        start = 0
        while piece := os.pread(descriptor, PIECE, start):
            hasher.update(piece)
            start += len(piece)
        return hasher.hexdigest()
