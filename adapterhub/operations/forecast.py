"""What a command would take, said before anything is written: its bytes, and by a sample of the work its memory and its time."""

from __future__ import annotations

import hashlib
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from adapterhub.documents import Forecast

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
    beside that, and bytes `reread` and hashed at the end; bytes of `memory` beyond those taken so far.
    """

    alone: float
    written: int
    spread: float = 0.0
    threads: int = 1
    hashed: int = 0
    reread: int = 0
    memory: int = 0


def forecast(load: Load, place: Path) -> Forecast:
    """What `load` comes to where `place` would be written."""
    writing = load.written / _written_a_second(place)
    hashing = 1 / _hashed_a_second()
    beside = load.hashed * hashing
    cores = min(os.cpu_count() or 1, _CORES)
    together = (writing + load.spread + beside) / (_SHARED * cores)
    seconds = max(together, writing, beside, load.spread / load.threads)
    return Forecast(memory=_peak() + load.memory, seconds=round(load.alone + seconds + load.reread * hashing, 3))


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


def _written_a_second(place: Path) -> float:
    """Bytes, in the folder where `place` would lie; the file that is tried has no name, and is gone at once."""
    folder = next(path for path in place.absolute().parents if path.is_dir())
    piece = bytes(_SAMPLE)
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as stream:
            started = time.perf_counter()
            stream.write(piece)
            os.fsync(stream.fileno())
            return _SAMPLE / (time.perf_counter() - started)
    except OSError:  # what would be written there is refused when it is written
        return float(_SAMPLE)


def _hashed_a_second() -> float:
    piece = bytes(_SAMPLE)
    started = time.perf_counter()
    hashlib.sha256(piece).digest()
    return _SAMPLE / (time.perf_counter() - started)


def _peak() -> int:
    """The most bytes of memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
