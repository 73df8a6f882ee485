"""Casts: every floating-point tensor in another dtype, rounded once, half to even, chunk by chunk and without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

from adapterhub.adapter import Adapter, Key
from adapterhub.documents import Problem
from adapterhub.operations.ledger import Ledger
from adapterhub.operations.problems import warning
from adapterhub.tensors import DTYPE_BITS, FLOATS, Buffer, LazyTensor, from_bytes, recast, values

if TYPE_CHECKING:
    import numpy as np


@dataclass
class Tally:
    """How many numbers became infinite, and how many that were not zero became zero, while the casts were written, perhaps by
    several threads.
    """

    overflows: int = 0
    underflows: int = 0
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def add(self, overflows: int, underflows: int) -> None:
        """Counts so many more."""
        with self._lock:
            self.overflows += overflows
            self.underflows += underflows

    def problems(self) -> Iterator[Problem]:
        """What there is to tell."""
        if self.overflows:
            yield warning("cast-overflow", "", f"{self.overflows} numbers became infinite in the cast",
                          "Cast to bf16, which has the range of fp32, or leave them as they were.")  # fmt: skip
        if self.underflows:
            yield warning("cast-underflow", "", f"{self.underflows} numbers that were not zero became zero in the cast")


def cast(
    adapter: Adapter, dtype: str | Callable[[Key], str | None], ledger: Ledger, tally: Tally | None = None
) -> Adapter:
    """The adapter in `dtype`, which may differ by key; integers are never cast."""
    tensors = dict(adapter.tensors)
    for key, tensor in tensors.items():
        wanted = dtype if isinstance(dtype, str) else dtype(key)
        if wanted is not None and tensor.dtype in FLOATS and tensor.dtype != wanted:
            tensors[key] = as_dtype(tensor, wanted, tally)
            ledger.replace([key], [key], "cast", f"{tensor.dtype} to {wanted}")
    return adapter.with_tensors(tensors)


def as_dtype(tensor: LazyTensor, dtype: str, tally: Tally | None = None) -> LazyTensor:
    """The numbers of `tensor` in F16, BF16 or F32, computed when they are read."""

    def chunks() -> Iterable[Buffer]:
        for chunk in tensor.chunks():
            found = values(from_bytes(tensor.dtype, (8 * len(chunk) // DTYPE_BITS[tensor.dtype],), chunk))
            stored = rounded(found, dtype)
            if tally is not None:
                _count(found, stored, dtype, tally)
            yield stored.tobytes()

    return LazyTensor(dtype, tensor.shape, chunks)


def rounded(found: np.ndarray, dtype: str) -> np.ndarray:
    """`found` in F16 or F32, or the bits of it in BF16, each the nearest there is, half to even."""
    return _ROUNDED[dtype](found)


def _half(found: np.ndarray) -> np.ndarray:
    import numpy as np

    if found.dtype == np.float32:
        return recast(found, "float16")
    with np.errstate(over="ignore", under="ignore"):
        return found.astype("<f2")


def _single(found: np.ndarray) -> np.ndarray:
    import numpy as np

    if found.dtype == np.float16:
        return recast(found, "float32")
    with np.errstate(over="ignore", under="ignore"):
        return found.astype("<f4")


def _brain(found: np.ndarray) -> np.ndarray:
    """bfloat16 as its bits: the upper half of float32, rounded half to even; NaN stays one."""
    import numpy as np

    bits = (_odd(found) if found.dtype == np.float64 else _single(found)).view("<u4")
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    if (nan := np.isnan(found)).any():
        rounded[nan] = (bits[nan] >> 16) | 0x40
    return rounded.astype("<u2")


def _odd(found: np.ndarray) -> np.ndarray:
    """float64 as float32, an inexact value as its neighbour with an odd last digit: a second rounding to fewer digits then
    ends where a single one would (Boldo and Melquiond, 2008).
    """
    import numpy as np

    near = _single(found)
    wide = near.astype("<f8")
    bits = near.view("<u4")
    towards_zero = np.where(np.abs(wide) > np.abs(found), bits - 1, bits)
    return np.where(wide == found, bits, towards_zero | 1).astype("<u4").view("<f4")


_ROUNDED: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {"F16": _half, "BF16": _brain, "F32": _single}


def _count(found: np.ndarray, stored: np.ndarray, dtype: str, tally: Tally) -> None:
    import numpy as np

    magnitude = stored & 0x7FFF if dtype == "BF16" else np.abs(stored)
    infinite = magnitude == (0x7F80 if dtype == "BF16" else np.inf)
    overflows = np.count_nonzero(infinite & np.isfinite(found))
    tally.add(int(overflows), int(np.count_nonzero((magnitude == 0) & (found != 0))))
