"""One tensor of a model with what adapters do to it: rows at a time, in float64, rounded once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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

_NUMBERS = 1 << 18
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


def merged(
    key: Key,
    stored: LazyTensor,
    terms: Sequence[Term],
    dtype: str,
    how: Rounding,
    pool: Pool,
    overflowed: Callable[[int], None] | None = None,
    record: Record | None = None,
) -> Iterator[memoryview]:
    """The bytes of `stored` with `terms`, as `dtype`, in memory of `pool`; `overflowed` is told how many numbers became infinite,
    `record` of terms that only add.
    """
    import numpy as np

    rounded, kind = how.of(key), rounding.CODES[dtype]
    for step in _steps(key, stored, terms):
        found = step.result(overwrite=record is None)
        codes = rounded(found, dtype, pool.take(found.shape, kind))
        if overflowed is not None and (broken := rounding.not_finite(codes, dtype)) is not None:
            overflowed(int((broken & np.isfinite(step.base)).sum()))
        if record is not None:
            record(step.undone(rounding.decoded(codes, dtype), dtype))
        yield codes.reshape(-1).view("u1").data


@contextmanager
def one_thread_a_product() -> Iterator[None]:
    """Inside, OpenBLAS does not share products out: its threads wait for each other in a loop, and take the cores from others."""
    import numpy  # noqa: F401  its OpenBLAS is not there before
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):
        yield


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
    """The bits of the weight as a matrix, some rows at a time, which the next ones write over; from a file as they are wanted, so
    that a large one never lies in memory.
    """
    import numpy as np

    count, kind = stored.shape[0], np.dtype(rounding.CODES[stored.dtype])
    columns = stored.size // max(1, count)
    rows = max(1, _NUMBERS // max(1, columns))
    run = stored.chunks
    if not isinstance(run, Range):
        whole = np.frombuffer(stored.read(), kind).reshape(count, columns)
        yield from (whole[start : start + rows] for start in range(0, count, rows))
        return
    for start in range(0, count, rows):
        codes = scratch("codes", (min(rows, count - start), columns), kind.str)
        run.part(start * columns * kind.itemsize, codes.nbytes).read_into(codes.reshape(-1).view("u1").data)
        yield codes


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
