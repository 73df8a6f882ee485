"""The processes that read files for the index; little work is done without any."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from itertools import chain, islice
from typing import TypeVar

from adapterhub.errors import MachineFailure

T = TypeVar("T")
R = TypeVar("R")

FEW = 48
"""Items that are done quicker than processes are started."""
_WORTH_PROCESSES = 64 << 20
"""Bytes below which one process has read files whole before several are started."""
_AHEAD = 3
"""Tasks that wait for each process, so that it never waits; not all, or memory would grow with the number of files."""

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`, the last perhaps shorter."""
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch


def carried_out(
    work: Callable[[list[T]], list[R]], items: Iterable[T], jobs: int | None, *, size: int, few: int = FEW
) -> Iterator[list[R]]:
    """`work` on the items, `size` at a time, in up to `jobs` processes; the results as they come, in the order of the items.

    If `jobs` is None, in as many as there are processors, where this one can be forked, else in this one: others import the main
    module anew, which only the caller can know to be harmless.
    """
    left = iter(items)
    first = list(islice(left, few))
    method = _start_method()
    jobs = jobs or (available() if method == "fork" else 1)
    if jobs == 1 or len(first) < few:
        yield from map(work, in_batches(chain(first, left), size))
        return
    yield from _spread(work, in_batches(chain(first, left), size), jobs, method)


def few_of(expected: int) -> int:
    """`few` of `carried_out` for files of so many bytes that are read whole, one at a time."""
    return 2 if expected >= _WORTH_PROCESSES else 1 << 30


def together(results: Iterable[list[R]], *, seconds: float = 0.3) -> Iterator[list[R]]:
    """What comes within so many seconds, in one list: a transaction takes as long for little as for much."""
    held: list[R] = []
    since = time.monotonic()
    for found in results:
        held += found
        if time.monotonic() - since >= seconds:
            yield held
            held, since = [], time.monotonic()
    if held:
        yield held


def available() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _spread(
    work: Callable[[list[T]], list[R]], batches: Iterator[list[T]], jobs: int, method: str
) -> Iterator[list[R]]:
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context(method), initializer=_alone)
    waiting: deque[Future[list[R]]] = deque()
    try:
        for batch in islice(batches, jobs * _AHEAD):
            with _held_back():  # until a process that this starts has said what it does with them
                waiting.append(pool.submit(_worked, work, batch))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(_worked, work, batch) for batch in islice(batches, 1))
    except BrokenProcessPool:
        pool.shutdown(wait=False, cancel_futures=True)
        raise MachineFailure("a process that read files died, perhaps for want of memory",
                             mend="Run it again: what was recorded stays. --jobs 1 takes the least memory.") from None  # fmt: skip
    except BaseException:  # a task that cannot be sent leaves a pool that never ends (CPython 3.11)
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


@contextmanager
def _held_back() -> Iterator[None]:
    """Signals that end a process wait, in this one and in those that it starts meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_method() -> str:
    """A fork has everything imported already, but is safe only where no other thread holds a lock, be it of a library."""
    try:
        alone = len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208 (a Path for each)
    except OSError:
        alone = False
    return "fork" if alone else "forkserver"


def _worked(work: Callable[[list[T]], list[R]], batch: list[T]) -> list[R]:
    """`work`, without a look for cycles of garbage at every few thousand of the many small objects that it makes."""
    gc.disable()
    try:
        return work(batch)
    finally:
        gc.collect(1)
        gc.freeze()  # what is left are tables that stay


def _alone() -> None:
    """One thread a process, and an interrupt is for the process that gives out the work: it ends the others by SIGTERM."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    with suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
