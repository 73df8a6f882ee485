"""What a command would take, said before anything is written: its bytes, and by a sample of the work its memory and its time."""

from __future__ import annotations

import hashlib
import mmap
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from adapterhub.documents import Forecast
from adapterhub.files.direct import ROOM, direct
from adapterhub.files.together import THREADS

T = TypeVar("T")

_SAMPLE = 32 << 20
"""Bytes that are written, under no name, and hashed, to see how fast that goes."""
_TRIED = 8
"""Items of a sample, or a few more."""
_SHARED = 0.95
"""How much of its time a core works, of several that wait for each other now and then."""
_CORES = 4
"""More are of no use to what a command does at a time."""


@dataclass
class Load:
    """Seconds `alone`, which nothing runs beside; bytes `written`; seconds of processor, `spread` over `threads`; bytes `hashed`
    beside that, and bytes `reread` and hashed at the end; bytes of `memory` beyond those taken so far; whether it is written
    through the system's cache.
    """

    alone: float
    written: int
    spread: float = 0.0
    threads: int = 1
    hashed: int = 0
    reread: int = 0
    memory: int = 0
    cached: bool = True


def forecast(load: Load, place: Path) -> Forecast:
    """What `load` comes to where `place` would be written."""
    speed, buffers = _written_a_second(place, 0 if load.cached else load.written)
    writing = load.written / speed
    hashing = 1 / _hashed_a_second()
    beside = load.hashed * hashing
    cores = min(os.cpu_count() or 1, _CORES)
    together = (writing + load.spread + beside) / (_SHARED * cores)
    seconds = max(together, writing, beside, load.spread / load.threads)
    return Forecast(
        memory=_peak() + load.memory + buffers, seconds=round(load.alone + seconds + load.reread * hashing, 3)
    )


def sampled(items: Sequence[T], work: Callable[[T], object], size: Callable[[T], int]) -> float:
    """Seconds of processor that `work` takes for all `items`, as some of them foretell by their `size`."""
    if not items:
        return 0.0
    chosen = items[:: max(1, len(items) // _TRIED)]
    work(chosen[0])  # the first takes memory and imports, too
    started = time.process_time()
    for item in chosen:
        work(item)
    spent = time.process_time() - started
    return spent * sum(map(size, items)) / max(1, sum(map(size, chosen)))


def _written_a_second(place: Path, size: int) -> tuple[float, int]:
    """Bytes, in the folder where `place` would lie, and those of memory that this takes. The file that is tried has no name,
    and is gone at once; it is written as one of `size` bytes would be.
    """
    folder = next(path for path in place.absolute().parents if path.is_dir())
    piece = mmap.mmap(-1, ROOM)
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as stream, ExitStack() as stack:
            os.ftruncate(stream.fileno(), size)
            past = direct(stream.fileno())
            if past is not None:
                stack.callback(past.close)
            started = time.perf_counter()
            for at in range(0, _SAMPLE, ROOM):
                if past is None:
                    os.pwrite(stream.fileno(), piece, at)
                else:
                    past.write(memoryview(piece), at)
            if past is None:
                os.fsync(stream.fileno())
            return _SAMPLE / (time.perf_counter() - started), 0 if past is None else (THREADS + 1) * ROOM
    except OSError:  # what would be written there is refused when it is written
        return float(_SAMPLE), 0


def _hashed_a_second() -> float:
    piece = bytes(_SAMPLE)
    started = time.perf_counter()
    hashlib.sha256(piece).digest()
    return _SAMPLE / (time.perf_counter() - started)


def _peak() -> int:
    """The most bytes of memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
