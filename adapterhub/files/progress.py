"""How far the work has come, for whoever wants to know: nobody, unless `watched` says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[int, int], None]
"""Is told how many bytes were done, and how many more are expected, since it was last told: bytes written, and bytes of modules
that were computed with.
"""

_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def watched(listener: Listener) -> Iterator[None]:
    """Tells `listener` of everything that is written and computed inside, in this thread, every MiB or so; what it raises stops that."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def tell(done: int = 0, expected: int = 0) -> None:
    """Says that so many bytes were written or computed with, or that so many more will be."""
    if listener := _LISTENER.get():
        listener(done, expected)
