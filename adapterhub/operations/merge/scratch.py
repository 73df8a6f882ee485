"""Memory that is written over again and again: to take it anew costs more than what is computed in it, and threads give none back."""

from __future__ import annotations

import math
import weakref
from collections import deque
from mmap import mmap
from threading import local
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


class _Held(local):
    """What one thread has: memory by name and dtype, and views of it by shape, too."""

    def __init__(self) -> None:
        self.memory: dict[tuple[str, str], np.ndarray] = {}
        self.views: dict[tuple[str, str, tuple[int, ...]], np.ndarray] = {}


_HELD = _Held()


def scratch(name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array of this thread, of any content; who asks for `name` next gets the same memory."""
    held = _HELD
    view = held.views.get((name, dtype, shape))
    return _viewed(held, name, shape, dtype) if view is None else view


def _viewed(held: _Held, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    import numpy as np

    size = math.prod(shape)
    memory = held.memory.get((name, dtype))
    if memory is None or memory.size < size:
        held.views.clear()  # those of what was too small
        memory = np.frombuffer(mmap(-1, max(1, size) * np.dtype(dtype).itemsize), dtype)
        held.memory[name, dtype] = memory
    view = held.views[name, dtype, shape] = memory[:size].reshape(shape)
    return view


class Pool:
    """Memory that results lie in until they are written; it comes back when nobody looks at it any more."""

    _PIECE = 1 << 21
    """Bytes; whoever wants more gets it for once."""

    def __init__(self) -> None:
        self._free: deque[mmap] = deque()

    def take(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """An array of any content."""
        import numpy as np

        size = math.prod(shape)
        if size * np.dtype(dtype).itemsize > self._PIECE:
            return np.empty(shape, dtype)
        try:
            memory = self._free.pop()
        except IndexError:
            memory = mmap(-1, self._PIECE)
        taken = np.frombuffer(memory, dtype, size)
        weakref.finalize(taken, self._free.append, memory).atexit = False
        return taken.reshape(shape)
