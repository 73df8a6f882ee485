"""Many small matrices at once: a module on each core, and no core waiting for another inside of one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
U = TypeVar("U")

_MOST = 4
"""Modules at once: each may take several times the memory of its weight in float64."""


def each(function: Callable[[T], U], items: Iterable[T]) -> list[U]:
    """`function` of every item, in order; the first error stops what has not begun."""
    with _one_thread_in_each(), ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST)) as pool:
        waiting = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in waiting]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _one_thread_in_each() -> Iterator[None]:
    """torch on one thread in each of ours: on a busy machine several that wait for each other take four times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
