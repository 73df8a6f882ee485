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
    """What one thread has."""

    def __init__(self) -> None:
        self.arrays: dict[tuple[str, str], np.ndarray] = {}


_HELD = _Held()


def scratch(name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array of this thread, of any content; who asks for `name` next gets the same memory."""
    import numpy as np

    size = math.prod(shape)
    held = _HELD.arrays.get((name, dtype))
    if held is None or held.size < size:
        held = _HELD.arrays[name, dtype] = np.frombuffer(mmap(-1, max(1, size) * np.dtype(dtype).itemsize), dtype)
    return held[:size].reshape(shape)


class Pool:
    """Memory in pieces of one size that results lie in while they wait; it comes back when nobody looks at it any more."""

    PIECE = 1 << 20
    """Bytes."""

    def __init__(self) -> None:
        self._free: deque[mmap] = deque()

    @classmethod
    def taken(cls, size: int) -> int:
        """The bytes of the pieces that hold `size` bytes."""
        return -(-size // cls.PIECE) * cls.PIECE

    def take(self) -> np.ndarray:
        """A piece of any content."""
        import numpy as np

        try:
            memory = self._free.pop()
        except IndexError:
            memory = mmap(-1, self.PIECE)
        taken = np.frombuffer(memory, "u1")
        weakref.finalize(taken, self._free.append, memory).atexit = False
        return taken
