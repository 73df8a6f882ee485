"""Computes what will be wanted next on a thread of its own, while its asker writes; holds no more than it may."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Name = TypeVar("Name")
Value = TypeVar("Value")


class Ahead(Generic[Name, Value]):
    """`compute` of every name, in the order in which they will be asked for: `workers` at once, and one more waiting.

    What is asked for out of turn, or again, is computed then.
    """

    def __init__(self, names: Iterable[Name], compute: Callable[[Name], Value], workers: int = 1) -> None:
        self.names = tuple(names)
        self._left, self._compute, self._workers = deque(self.names), compute, workers
        self._pool = ThreadPoolExecutor(workers)
        self._made: dict[Name, Future[Value]] = {}

    def __call__(self, name: Name) -> Value:
        self._begin()
        found = self._made.pop(name, None)
        self._begin()
        return self._compute(name) if found is None else found.result()

    def __enter__(self) -> Ahead[Name, Value]:
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.clear()
        self._pool.shutdown(cancel_futures=True)

    def _begin(self) -> None:
        while self._left and len(self._made) <= self._workers:
            name = self._left.popleft()
            self._made[name] = self._pool.submit(self._compute, name)
