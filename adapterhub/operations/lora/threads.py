"""Many small matrices at once: a module on each core, and no core waiting for another inside of one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from adapterhub.adapter import Roles
from adapterhub.files.progress import tell

T = TypeVar("T")
U = TypeVar("U")

_MOST = 4
"""Modules at once: each may take several times the memory of its weight in float64."""


def each(function: Callable[[T], U], items: Mapping[T, int]) -> list[U]:
    """`function` of every item, in order; the first error stops what has not begun. The bytes that each item stands for are told
    to whoever watches.
    """
    tell(expected=sum(items.values()))
    with one_thread_in_each(), ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST)) as pool:
        waiting = [pool.submit(function, item) for item in items]
        try:
            return [_told(future, size) for future, size in zip(waiting, items.values(), strict=True)]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _told(future: Future[U], size: int) -> U:
    found = future.result()
    tell(size)
    return found


def sizes(modules: Mapping[T, Roles]) -> dict[T, int]:
    """The bytes of each module."""
    return {module: sum(tensor.nbytes for tensor in roles.values()) for module, roles in modules.items()}


@contextmanager
def one_thread_in_each() -> Iterator[None]:
    """torch on one thread in each of ours: on a busy machine several that wait for each other take four times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
