"""The sum of several products of two matrices: their factors side by side, or an approximation of a lower rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import torch

from adapterhub.adapter import Role
from adapterhub.algorithms import extent
from adapterhub.operations.lora import deltas
from adapterhub.operations.lora.deltas.truncation import Svd, Truncated, of_product
from adapterhub.operations.lora.fold import sunk
from adapterhub.operations.lora.low_rank import Bound
from adapterhub.operations.lora.pairs import computed, dtype_of, factors, when_read
from adapterhub.operations.lora.term import Term
from adapterhub.operations.work import Cut
from adapterhub.tensors import LazyTensor, Shape, holds, scalar

R = Role
_STORED_DOWN = frozenset({R.MID, R.ADALORA_E})
"""Beside one of these, the second matrix is not the stored one."""
_NOTHING = 2.0**-44
"""A sum that is so small beside its terms is what rounding them left (float64, some hundred roundings)."""


class Sum(NamedTuple):
    """What is stored of a sum, how it was approximated, and how many of its numbers are too small for their dtype."""

    tensors: dict[Role, LazyTensor]
    cut: Cut | None = None
    sunk: int = 0


def product(terms: Sequence[Term], within: Bound | None, dtype: str | None) -> Sum:
    """The factors side by side, at the sum of their ranks, or within a bound; zeros where they cancel and rounding would show."""
    rank = sum(term.rank for term in terms)
    joins = within is None or (within.rank is not None and rank <= within.rank)
    if joins and not _rounds_opposites(terms, rank, dtype):
        return _joined(terms, rank, dtype)
    pairs = [(float(term.scale), term.pair()) for term in terms]
    svd = of_product(
        torch.cat([scale * pair.up for scale, pair in pairs], 1), torch.cat([pair.down for _, pair in pairs])
    )
    largest = sum(abs(scale) * float(pair.up.norm() * pair.down.norm()) for scale, pair in pairs)
    if joins and not _cancels(svd, largest):
        return _joined(terms, rank, dtype)
    stored = dtype or dtype_of(*(term.tensors for term in terms))
    return approximated(svd, within or Bound(tolerance=0.0), largest, pairs[0][1].row, stored)


def approximated(svd: Svd, within: Bound, largest: float, row: Shape, dtype: str) -> Sum:
    """The best approximation of a sum whose terms have norms of `largest` together; of what is none but rounding, zeros."""
    if _cancels(svd, largest):
        zeros = Truncated(0 * svd.up[:, :1], 0 * svd.down[:1], 0.0)
        return Sum(factors(zeros, row, dtype), Cut(1, 0.0, cancelled=True))
    cut = svd.cut(within.of(svd))
    return Sum(factors(cut, row, dtype), Cut(cut.up.shape[1], cut.error))


def _rounds_opposites(terms: Sequence[Term], rank: int, dtype: str | None) -> bool:
    """Whether terms of both signs are joined by numbers that are not those of their files."""
    scales = [term.scale for term in terms]
    return min(scales) < 0 < max(scales) and {1.0} != set(map(abs, _shared(scales, rank, dtype)[1]))


def _cancels(svd: Svd, largest: float) -> bool:
    """Whether a sum whose terms have norms of `largest` together is none but rounding."""
    return largest > 0 and math.hypot(float(svd.sizes.norm()), math.sqrt(svd.rest)) <= _NOTHING * largest


def _joined(terms: Sequence[Term], rank: int, dtype: str | None) -> Sum:
    """A stacked, B side by side, each B times what alpha / rank does not say; computed when they are written."""
    modules = [term.tensors for term in terms]
    rows, columns = extent(modules[0])
    assert rows is not None
    assert columns is not None
    alpha, left = _shared([term.scale for term in terms], rank, dtype)
    ups = [{R.UP: tensors[R.UP]} for tensors in modules if R.UP in tensors]
    downs = [{R.DOWN: tensors[R.DOWN]} for tensors in modules if R.DOWN in tensors and _STORED_DOWN.isdisjoint(tensors)]
    up = dtype_of(*ups) if len(ups) == len(terms) and set(left) == {1.0} else computed(None, *modules)
    down = dtype_of(*downs) if len(downs) == len(terms) else computed(None, *modules)
    made = {
        R.DOWN: when_read(dtype or down, (rank, columns), lambda: torch.cat([term.pair().down for term in terms])),
        R.UP: when_read(dtype or up, (rows, rank), lambda: torch.cat(
            [factor * term.pair().up for factor, term in zip(left, terms, strict=True)], 1)),
        R.ALPHA: scalar(alpha),
    }  # fmt: skip
    small = [_sunk(term, factor, dtype) for term, factor in zip(terms, left, strict=True)] if dtype else []
    return Sum(made, sunk=sum(small))


def _sunk(term: Term, factor: float, dtype: str) -> int:
    """How many numbers of the first matrix are too small for `dtype` once they are multiplied."""
    up = term.pair().up
    return sunk(deltas.lazy(up, "F64"), deltas.lazy(factor * up, dtype), factor)


def _shared(scales: Sequence[Fraction], rank: int, dtype: str | None) -> tuple[float, list[float]]:
    """alpha, and what is left for each factor: nothing where all have one scale and the dtype of alpha holds that."""
    largest = max(scales, key=abs)
    for alpha in (largest * rank, Fraction(rank), Fraction(2) ** rank.bit_length()):
        if alpha and holds(dtype or "F32", float(alpha)) and Fraction(float(alpha)) == alpha:
            break
    return float(alpha), [float(scale * rank / alpha) for scale in scales]
