"""One tensor of a model with what adapters do to it: rows at a time, in float64, rounded once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapterhub.adapter import Key, Role
from adapterhub.files.source import Range
from adapterhub.operations.merge import rounding
from adapterhub.operations.merge.terms import Change, Term, applied, bias, changes
from adapterhub.tensors import LazyTensor, from_bytes, length, values

if TYPE_CHECKING:
    import numpy as np

_NUMBERS = 1 << 16
"""Numbers of one step: half a MiB of float64, which stays in the processor's cache."""
Record = Callable[["np.ndarray"], None]
"""Told the bits that taking the change out of a step's result again gives."""


@dataclass(frozen=True)
class Rounding:
    """How results are rounded; by chance with numbers that follow from the seed and the tensor alone."""

    by_chance: bool = False
    seed: int = 0

    def of(self, key: Key) -> Callable[[np.ndarray, str], np.ndarray]:
        if not self.by_chance:
            return rounding.nearest
        import numpy as np

        told = hashlib.sha256(repr((self.seed, *key)).encode()).digest()
        generator = np.random.default_rng(int.from_bytes(told[:16], "little"))
        return lambda found, dtype: rounding.stochastic(found, dtype, generator)


@dataclass
class Merged:
    """The bytes of a tensor, and how many numbers became infinite."""

    data: bytearray
    overflows: int = 0


def merged(
    key: Key, stored: LazyTensor, terms: Sequence[Term], dtype: str, how: Rounding, record: Record | None = None
) -> Merged:
    """`stored` with `terms`, as `dtype`; `record` is told of terms that only add."""
    import numpy as np

    made = Merged(bytearray(length(dtype, stored.shape)))
    bits, end = np.frombuffer(made.data, rounding.CODES[dtype]), 0
    rounded = how.of(key)
    for base, change, whole in _steps(key, stored, terms):
        codes = rounded(base + change if whole is None else whole, dtype)
        end += codes.size
        bits[end - codes.size : end] = codes.reshape(-1)
        if (broken := rounding.not_finite(codes, dtype)) is not None:
            made.overflows += int((broken & np.isfinite(base)).sum())
        if record is not None:
            assert change is not None
            record(rounding.nearest(rounding.decoded(codes, dtype) - change, dtype))
    return made


def without(stored: LazyTensor, terms: Sequence[Term], key: Key) -> Iterator[np.ndarray]:
    """The bits that are left when terms that only add are taken out of a merged tensor again, in steps."""
    for now, change, _ in _steps(key, stored, terms):
        assert change is not None
        yield rounding.nearest(now - change, stored.dtype)


def reversible(key: Key, terms: Sequence[Term]) -> bool:
    """Whether taking the terms out again is a subtraction."""
    return all((term.bias_adds if key.role is Role.LAYER_BIAS else term.adds) and not term.folded for term in terms)


def _steps(
    key: Key, stored: LazyTensor, terms: Sequence[Term]
) -> Iterator[tuple[np.ndarray, np.ndarray | None, np.ndarray | None]]:
    """(base, change, None) of consecutive rows where everything is added, else (base, None, result)."""
    import numpy as np

    if not reversible(key, terms):
        data = _read(stored)
        whole = _whole(key, np.ascontiguousarray(data, "<f8"), terms)
        yield from _pieces(data.reshape(-1), whole.reshape(-1))
    elif key.role is Role.LAYER_BIAS:
        wide = _read(stored).astype("<f8")
        yield wide, bias(np.zeros_like(wide), terms), None
    else:
        made, at = changes(terms), 0
        for rows in _rows(stored):
            yield rows.astype("<f8"), _sum(made, at, at + len(rows)), None
            at += len(rows)


def _read(stored: LazyTensor) -> np.ndarray:
    """The numbers, read once."""
    return values(from_bytes(stored.dtype, stored.shape, stored.read()))


def _rows(stored: LazyTensor) -> Iterator[np.ndarray]:
    """The weight as a matrix, some rows at a time; from a file as they are wanted, so that a large one never lies in memory."""
    count = stored.shape[0]
    rows = max(1, _NUMBERS * count // max(1, stored.size))
    sizes = [min(rows, count - start) for start in range(0, count, rows)]
    if not isinstance(stored.chunks, Range):
        stored = from_bytes(stored.dtype, stored.shape, stored.read())
    for part in stored.split_rows(sizes):
        yield values(part).reshape(part.shape[0], -1)


def _sum(made: Sequence[Change], start: int, stop: int) -> np.ndarray:
    total = made[0].rows(start, stop)
    for change in made[1:]:
        total = total + change.rows(start, stop)
    return total


def _whole(key: Key, weight: np.ndarray, terms: Sequence[Term]) -> np.ndarray:
    """In the order given: each term works on what the ones before it made."""
    if key.role is Role.LAYER_BIAS:
        return bias(weight, terms)
    for term in terms:
        if term.adds:
            weight = weight + _sum(changes([term]), 0, len(weight)).reshape(weight.shape)
        else:
            weight = applied(weight, term)
    return weight


def _pieces(base: np.ndarray, whole: np.ndarray) -> Iterator[tuple[np.ndarray, None, np.ndarray]]:
    for start in range(0, base.size, _NUMBERS):
        yield base[start : start + _NUMBERS].astype("<f8"), None, whole[start : start + _NUMBERS]
