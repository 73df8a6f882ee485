"""Computes what will be wanted next on threads of its own, while its asker writes; holds no more than it may."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Name = TypeVar("Name")
Value = TypeVar("Value")

_WORKERS = 2
_HELD = 16 << 20
"""Bytes that may wait for their asker, beside those that are being computed."""


class Ahead(Generic[Name, Value]):
    """`compute` of every name, whose results take `size` bytes, in the order in which they will be asked for.

    What is asked for out of turn, or again, is computed then. Inside, a product of matrices takes one thread: those that OpenBLAS
    would share it out to wait for each other in a loop, and take the cores from copying and hashing.
    """

    def __init__(self, names: Iterable[Name], compute: Callable[[Name], Value], size: Callable[[Name], int]) -> None:
        self.names = tuple(names)
        self._left, self._compute, self._size = deque(self.names), compute, size
        self._pool = ThreadPoolExecutor(_WORKERS)
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
        import numpy  # noqa: F401  its OpenBLAS is not there before
        from threadpoolctl import threadpool_limits

        self._limits = threadpool_limits(1, "blas")
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.clear()
        self._pool.shutdown(cancel_futures=True)
        self._limits.restore_original_limits()

    def _begin(self) -> None:
        while self._left and (len(self._made) < _WORKERS or self._held < _HELD):
            name = self._left.popleft()
            self._held += self._size(name)
            self._made[name] = self._pool.submit(self._compute, name)
