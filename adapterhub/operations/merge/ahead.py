"""Computes what will be wanted next on threads of its own, while its asker writes; holds no more than it may."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Generic, TypeVar

Name = TypeVar("Name")
Value = TypeVar("Value")

WORKERS = 2
HELD = 16 << 20
"""Bytes that may wait for their asker, beside those that are being computed."""


class Ahead(Generic[Name, Value]):
    """`compute` of every name, whose results take `size` bytes, in the order in which they will be asked for.

    What is asked for out of turn, or again, is computed then.
    """

    def __init__(self, names: Iterable[Name], compute: Callable[[Name], Value], size: Callable[[Name], int]) -> None:
        self._left, self._compute, self._size = deque(names), compute, size
        self._pool = ThreadPoolExecutor(WORKERS)
        self._made: dict[Name, Future[Value]] = {}
        self._held = 0

    def __call__(self, name: Name) -> Value:
        self._begin()
        found = self._made.pop(name, None)
        if found is None:
            return self._compute(name)
        self._held -= self._size(name)
        self._begin()
        return found.result()

    def __enter__(self) -> Ahead[Name, Value]:
        self._alone = ExitStack()
        self._alone.enter_context(one_thread_a_product())
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.clear()
        self._pool.shutdown(cancel_futures=True)
        self._alone.close()

    def _begin(self) -> None:
        while self._left and (len(self._made) < WORKERS or self._held < HELD):
            name = self._left.popleft()
            self._held += self._size(name)
            self._made[name] = self._pool.submit(self._compute, name)


@contextmanager
def one_thread_a_product() -> Iterator[None]:
    """Inside, OpenBLAS does not share products out: its threads wait for each other in a loop, and take the cores from others."""
    import numpy  # noqa: F401  its OpenBLAS is not there before
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        yield
