"""One tensor of a model with what adapters do to it: rows at a time, in float64, rounded once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from adapterhub.adapter import Key, Role
from adapterhub.files.source import Range
from adapterhub.operations.merge import rounding
from adapterhub.operations.merge.scratch import Pool, scratch
from adapterhub.operations.merge.terms import Change, Term, applied, bias, changes
from adapterhub.tensors import LazyTensor, from_bytes, values

if TYPE_CHECKING:
    import numpy as np

_NUMBERS = 1 << 17
"""Numbers of one step: few enough to stay near the processor, many enough that two threads seldom wait for Python's lock."""
Record = Callable[["np.ndarray"], None]
"""Told the bits that taking the change out of a step's result again gives."""


@dataclass(frozen=True)
class Rounding:
    """How results are rounded; by chance with numbers that follow from the seed and the tensor alone."""

    by_chance: bool = False
    seed: int = 0

    def of(self, key: Key) -> Callable[[np.ndarray, str, np.ndarray], np.ndarray]:
        if not self.by_chance:
            return rounding.nearest
        import numpy as np

        told = hashlib.sha256(repr((self.seed, *key)).encode()).digest()
        generator = np.random.default_rng(int.from_bytes(told[:16], "little"))
        return lambda found, dtype, out: rounding.stochastic(found, dtype, generator, out)


class Merged(NamedTuple):
    """The bytes of a tensor, in pieces, and how many numbers became infinite."""

    pieces: list[memoryview]
    overflows: int


def merged(
    key: Key,
    stored: LazyTensor,
    terms: Sequence[Term],
    dtype: str,
    how: Rounding,
    pool: Pool,
    record: Record | None = None,
) -> Merged:
    """`stored` with `terms`, as `dtype`, in memory of `pool`; `record` is told of terms that only add."""
    import numpy as np

    pieces, overflows = _Pieces(pool, rounding.CODES[dtype]), 0
    rounded = how.of(key)
    for step in _steps(key, stored, terms):
        found = step.result(overwrite=record is None)
        codes = rounded(found, dtype, pieces.room(found.shape))
        if (broken := rounding.not_finite(codes, dtype)) is not None:
            overflows += int((broken & np.isfinite(step.base)).sum())
        if record is not None:
            record(step.undone(rounding.decoded(codes, dtype), dtype))
    return Merged(pieces.filled(), overflows)


class _Pieces:
    """The memory that steps fill, one behind the other."""

    def __init__(self, pool: Pool, kind: str) -> None:
        self._pool, self._kind = pool, kind
        self._full: list[memoryview] = []
        self._piece, self._used = pool.take().view(kind), 0

    def room(self, shape: tuple[int, ...]) -> np.ndarray:
        """Where the next step goes."""
        import numpy as np

        size = math.prod(shape)
        if self._used + size > self._piece.size:
            self._full = self.filled()
            fits = size * self._piece.itemsize <= self._pool.PIECE
            self._piece, self._used = self._pool.take().view(self._kind) if fits else np.empty(size, self._kind), 0
        self._used += size
        return self._piece[self._used - size : self._used].reshape(shape)

    def filled(self) -> list[memoryview]:
        """All that was filled."""
        return [*self._full, self._piece[: self._used].view("u1").data]


def without(stored: LazyTensor, terms: Sequence[Term], key: Key) -> Iterator[np.ndarray]:
    """The bits that are left when terms that only add are taken out of a merged tensor again, in steps."""
    for step in _steps(key, stored, terms):
        yield step.undone(step.base, stored.dtype)


def reversible(key: Key, terms: Sequence[Term]) -> bool:
    """Whether taking the terms out again is a subtraction."""
    return all((term.bias_adds if key.role is Role.LAYER_BIAS else term.adds) and not term.folded for term in terms)


class _Step(NamedTuple):
    """Consecutive numbers of a tensor in float64, and what is added to them or becomes of them; the next step writes over all."""

    base: np.ndarray
    change: np.ndarray | None
    whole: np.ndarray | None = None

    def result(self, *, overwrite: bool) -> np.ndarray:
        """The numbers with the change, which the sum may `overwrite`."""
        import numpy as np

        if self.whole is not None:
            return self.whole
        assert self.change is not None
        found: np.ndarray = np.add(self.base, self.change, out=self.change if overwrite else None)
        return found

    def undone(self, merged: np.ndarray, dtype: str) -> np.ndarray:
        """The bits that are left when the change is taken out of `merged` again."""
        assert self.change is not None
        return rounding.nearest(merged - self.change, dtype)


def _steps(key: Key, stored: LazyTensor, terms: Sequence[Term]) -> Iterator[_Step]:
    import numpy as np

    if not reversible(key, terms):
        data = _read(stored)
        whole = _whole(key, np.ascontiguousarray(data, "<f8"), terms)
        yield from _pieces(data.reshape(-1), whole.reshape(-1))
    elif key.role is Role.LAYER_BIAS:
        wide = _read(stored).astype("<f8")
        yield _Step(wide, bias(np.zeros_like(wide), terms))
    else:
        made, at = changes(terms), 0
        for codes in _rows(stored):
            base = rounding.decoded(codes, stored.dtype, scratch("base", codes.shape, "<f8"))
            yield _Step(base, _sum(made, at, at + len(codes)))
            at += len(codes)


def _read(stored: LazyTensor) -> np.ndarray:
    """The numbers, read once."""
    return values(from_bytes(stored.dtype, stored.shape, stored.read()))


def _rows(stored: LazyTensor) -> Iterator[np.ndarray]:
    """The bits of the weight as a matrix, some rows at a time; from a file as they are wanted, so that a large one never lies in memory."""
    import numpy as np

    count = stored.shape[0]
    rows = max(1, _NUMBERS * count // max(1, stored.size))
    sizes = [min(rows, count - start) for start in range(0, count, rows)]
    if not isinstance(stored.chunks, Range):
        stored = from_bytes(stored.dtype, stored.shape, stored.read())
    for part in stored.split_rows(sizes):
        yield np.frombuffer(part.read(), rounding.CODES[stored.dtype]).reshape(part.shape[0], -1)


def _sum(made: Sequence[Change], start: int, stop: int) -> np.ndarray:
    """Their rows together."""
    shape = (stop - start, made[0].columns)
    total, further = (scratch(name, shape, "<f8") for name in ("total", "further"))
    made[0].rows(start, stop, total)
    for change in made[1:]:
        change.rows(start, stop, further)
        total += further
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


def _pieces(base: np.ndarray, whole: np.ndarray) -> Iterator[_Step]:
    for start in range(0, base.size, _NUMBERS):
        yield _Step(base[start : start + _NUMBERS].astype("<f8"), None, whole[start : start + _NUMBERS])
