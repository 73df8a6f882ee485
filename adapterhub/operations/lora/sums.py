"""The sum of what several LoRAs do to one module, or what a method merges of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from adapterhub.adapter import Module, Role, Roles
from adapterhub.algorithms import extent, total_scale
from adapterhub.documents import Action
from adapterhub.errors import BrokenAdapter, RefusedInput, UnknownName, UsageError
from adapterhub.operations.base import Base
from adapterhub.operations.lora import deltas
from adapterhub.operations.lora.deltas.truncation import Pair, Svd, Truncated, of_product
from adapterhub.operations.lora.effect import Effect, added, effect
from adapterhub.operations.lora.low_rank import Bound, decomposed
from adapterhub.operations.lora.methods import METHODS, Method, seed_of
from adapterhub.operations.lora.pairs import computed, dtype_of, factors, has_pair
from adapterhub.operations.lora.rework import Cut
from adapterhub.operations.lora.scale import scaled
from adapterhub.operations.lora.thresholds import threshold
from adapterhub.tensors import Buffer, LazyTensor, Shape, holds, scalar

R = Role
_LINEAR = ("linear", "svd")
_STORED_DOWN = frozenset({R.MID, R.ADALORA_E})
"""Beside one of these, the second matrix is not the stored one."""
_BEYOND_F32 = 1 << 128
_BELOW_F32 = Fraction(1, 1 << 126)
"""Between these F32 holds a strength with all of its digits."""
_NOTHING = 2.0**-44
"""A sum that is so small beside its terms is what rounding them left (float64, some hundred roundings)."""


class Term(NamedTuple):
    """What one input does to a module: its `number`, the `name` of its file, its weight."""

    number: int
    name: str
    weight: float
    tensors: Roles

    @property
    def is_embedding(self) -> bool:
        return not {R.VECTORS, R.OUTPUT_VECTORS}.isdisjoint(self.tensors)

    def __str__(self) -> str:
        return self.name if self.weight == 1 else f"{self.weight:.9g} · {self.name}"


class Mixing(NamedTuple):
    """How terms become one: by adding or by a `method`; exactly, or within a bound."""

    method: Method | None
    within: Bound | None
    density: float = 1.0
    seed: int = 0
    thresholds: Mapping[int, float] = {}

    def of(self, module: Module, parts: Mapping[int, Tensor]) -> Tensor:
        """One tensor of several of one shape, by the numbers of their inputs, each already times its weight."""
        changes = list(parts.values())
        if self.method is None:
            return torch.stack(changes).sum(0) if len(changes) > 1 else changes[0]
        kept = [self.thresholds[number] if self.method.trims else self.density for number in parts]
        return self.method.merge(changes, kept, seed_of(self.seed, *module))


class Combined(NamedTuple):
    """One module, and what the ledger is told."""

    tensors: Roles
    action: Action
    reason: str
    cut: Cut | None = None


def mixing_of(method: str, within: Bound | None, density: float | None, seed: int) -> Mixing:
    """What the arguments of `combine` mean. UsageError, UnknownName."""
    known = METHODS.get(method)
    if known is None and method not in _LINEAR:
        raise UnknownName("method", method, (*_LINEAR, *METHODS))
    if within is None and method != "linear":
        raise UsageError(f"what {method} makes is an approximation", mend="Give --rank or --tolerance.")
    if density is not None and (known is None or not 0 < density <= 1):
        raise UsageError("a density is a share of the numbers, and only ties and dare have one", mend="Give 0 to 1.")
    if seed and method != "dare":
        raise UsageError("only dare draws from a seed", mend="Leave out --seed, or give --method dare.")
    return Mixing(known, within, density or (known.density if known else 1.0), seed)


def trimming(mixing: Mixing, terms: Iterable[Sequence[Term]]) -> Mixing:
    """With the thresholds of a method that trims: the numbers of an input are all that it changes, in every module."""
    if mixing.method is None or not mixing.method.trims:
        return mixing
    by_number: dict[int, list[Term]] = {}
    for term in (term for module in terms for term in module if not term.is_embedding):
        by_number.setdefault(term.number, []).append(term)
    found = {number: threshold(partial(_numbers, held), mixing.density) for number, held in by_number.items()}
    return mixing._replace(thresholds=found)


def _numbers(terms: Sequence[Term]) -> Iterator[Tensor]:
    """Everything that one input changes, module by module."""
    for term in terms:
        bias = deltas.delta(term.tensors).bias()
        if bias is not None:
            yield term.weight * bias
        if not term.tensors.keys() <= {R.DIFF_B, R.ALPHA}:
            yield _change(term)


def _change(term: Term) -> Tensor:
    """ΔW times its weight, as a row of numbers: the same ones wherever they are compared with a threshold."""
    return term.weight * deltas.change(term.tensors, None).flatten()


def wanted(module: Module, terms: Sequence[Term], mixing: Mixing, base: Base) -> Effect:
    """What the module should do."""
    if len(terms) == 1 and mixing.method is None:
        only = effect(module, terms[0].tensors, base)
        return only.times(terms[0].weight)
    if terms[0].is_embedding:
        return Effect(None, None)
    found = {term.number: effect(module, term.tensors, base).times(term.weight) for term in terms}
    biases = {number: part.bias for number, part in found.items() if part.bias is not None}
    weights = {
        number: part.weight for number, part in found.items() if part.weight is not None and part.weight.numel() > 1
    }
    if not weights:
        weight = None
    elif mixing.method is None:
        weight = added(list(weights.values()))
    else:
        weight = mixing.of(module, {term.number: _change(term) for term in terms if term.number in weights})
    return Effect(weight, mixing.of(module, biases) if biases else None)


def combined(module: Module, terms: Sequence[Term], mixing: Mixing, dtype: str | None) -> Combined:
    """One module of what several inputs, or one, do to it."""
    reason = " + ".join(map(str, terms))
    first = terms[0]
    if first.is_embedding:
        return Combined(first.tensors, "copy", "an embedding stays as it is")
    if len(terms) == 1 and mixing.method is None and (mixing.within is None or not has_pair(first.tensors)):
        return Combined(scaled(first.tensors, first.weight), "copy" if first.weight == 1 else "compute", reason)
    changing = [term for term in terms if not term.tensors.keys() <= {R.DIFF_B, R.ALPHA}]
    bias = _biases(module, terms, mixing, dtype)
    if not changing:
        return Combined(bias, "compute", reason)
    if mixing.method is None and all(has_pair(term.tensors) for term in changing):
        made, cut = _product(changing, mixing.within, dtype)
    else:
        made, cut = _difference(module, changing, mixing, dtype)
    if R.W_NORM in made and R.DIFF_B in bias:
        bias = {R.B_NORM: bias[R.DIFF_B]}
    return Combined(made | bias, "compute", f"{reason}; {cut}" if cut else reason, cut)


def _biases(module: Module, terms: Sequence[Term], mixing: Mixing, dtype: str | None) -> dict[Role, LazyTensor]:
    """What is added to the bias."""
    found = {term.number: (term.weight, deltas.delta(term.tensors).bias()) for term in terms}
    parts = {number: weight * bias for number, (weight, bias) in found.items() if bias is not None}
    stored = computed(dtype, *(term.tensors for term in terms))
    return {R.DIFF_B: deltas.lazy(mixing.of(module, parts), stored)} if parts else {}


def _product(
    terms: Sequence[Term], within: Bound | None, dtype: str | None
) -> tuple[dict[Role, LazyTensor], Cut | None]:
    """The factors side by side, at the sum of their ranks, or within a bound; zeros where they cancel and rounding would show."""
    rank = sum(_rank(term.tensors) for term in terms)
    joins = within is None or (within.rank is not None and rank <= within.rank)
    if joins and not _rounds_opposites(terms, rank, dtype):
        return _joined(terms, rank, dtype), None
    pairs = [(float(_scale(term)), _pair(term.tensors)) for term in terms]
    svd = of_product(
        torch.cat([scale * pair.up for scale, pair in pairs], 1), torch.cat([pair.down for _, pair in pairs])
    )
    largest = sum(abs(scale) * float(pair.up.norm() * pair.down.norm()) for scale, pair in pairs)
    if joins and not _cancels(svd, largest):
        return _joined(terms, rank, dtype), None
    stored = dtype or dtype_of(*(term.tensors for term in terms))
    return _approximated(svd, within or Bound(tolerance=0.0), largest, pairs[0][1].row, stored)


def _rounds_opposites(terms: Sequence[Term], rank: int, dtype: str | None) -> bool:
    """Whether terms of both signs are joined by numbers that are not those of their files."""
    scales = [_scale(term) for term in terms]
    return min(scales) < 0 < max(scales) and {1.0} != set(map(abs, _shared(scales, rank, dtype)[1]))


def _cancels(svd: Svd, largest: float) -> bool:
    """Whether a sum whose terms have norms of `largest` together is none but rounding."""
    return largest > 0 and math.hypot(float(svd.sizes.norm()), math.sqrt(svd.rest)) <= _NOTHING * largest


def _approximated(
    svd: Svd, within: Bound, largest: float, row: Shape, dtype: str
) -> tuple[dict[Role, LazyTensor], Cut]:
    """The best approximation of a sum whose terms have norms of `largest` together; of what is none but rounding, zeros."""
    if _cancels(svd, largest):
        zeros = Truncated(0 * svd.up[:, :1], 0 * svd.down[:1], 0.0)
        return factors(zeros, row, dtype), Cut(1, 0.0, cancelled=True)
    cut = svd.cut(within.of(svd))
    return factors(cut, row, dtype), Cut(cut.up.shape[1], cut.error)


def _joined(terms: Sequence[Term], rank: int, dtype: str | None) -> dict[Role, LazyTensor]:
    """A stacked, B side by side, each B times what alpha / rank does not say; computed when they are written."""
    modules = [term.tensors for term in terms]
    rows, columns = next(size for size in map(extent, modules))
    assert rows is not None
    assert columns is not None
    alpha, left = _shared([_scale(term) for term in terms], rank, dtype)
    ups = [{R.UP: tensors[R.UP]} for tensors in modules if R.UP in tensors]
    downs = [{R.DOWN: tensors[R.DOWN]} for tensors in modules if R.DOWN in tensors and _STORED_DOWN.isdisjoint(tensors)]
    up = dtype_of(*ups) if len(ups) == len(terms) and set(left) == {1.0} else computed(None, *modules)
    down = dtype_of(*downs) if len(downs) == len(terms) else computed(None, *modules)
    return {
        R.DOWN: _when_read(dtype or down, (rank, columns), lambda: torch.cat([_pair(t).down for t in modules])),
        R.UP: _when_read(dtype or up, (rows, rank), lambda: torch.cat(
            [factor * _pair(t).up for factor, t in zip(left, modules, strict=True)], 1)),
        R.ALPHA: scalar(alpha),
    }  # fmt: skip


def _shared(scales: Sequence[Fraction], rank: int, dtype: str | None) -> tuple[float, list[float]]:
    """alpha, and what is left for each factor: nothing where all have one scale and the dtype of alpha holds that."""
    largest = max(scales, key=abs)
    for alpha in (largest * rank, Fraction(rank), Fraction(2) ** rank.bit_length()):
        if alpha and holds(dtype or "F32", float(alpha)) and Fraction(float(alpha)) == alpha:
            break
    return float(alpha), [float(scale * rank / alpha) for scale in scales]


def _difference(
    module: Module, terms: Sequence[Term], mixing: Mixing, dtype: str | None
) -> tuple[dict[Role, LazyTensor], Cut | None]:
    """ΔW itself, where one of them is no product or a method asks for it; within a bound if it is a matrix."""
    modules = [term.tensors for term in terms]
    norm = any(R.W_NORM in tensors or R.B_NORM in tensors for tensors in modules)
    shape = _shape(modules)

    def parts() -> dict[int, Tensor]:
        return {term.number: _change(term) for term in terms}

    def merged() -> Tensor:
        return mixing.of(module, parts()).reshape(shape)

    if mixing.within is None or len(shape) < 2:
        role = R.W_NORM if norm else R.DIFF
        return {role: _when_read(computed(dtype, *modules), shape, merged)}, None
    found = parts()
    svd = decomposed(mixing.of(module, found).reshape(shape).flatten(1), mixing.within)
    largest = sum(float(part.norm()) for part in found.values())
    return _approximated(svd, mixing.within, largest, shape[1:], dtype or dtype_of(*modules))


def _shape(modules: Sequence[Roles]) -> Shape:
    """The shape of ΔW: of the one that shows the most of it."""
    stored = [tensors[R.DIFF].shape for tensors in modules if R.DIFF in tensors]
    return max(stored or [tuple(deltas.change(tensors, None).shape) for tensors in modules], key=len)


def _scale(term: Term) -> Fraction:
    """weight · alpha / rank."""
    scale = total_scale(term.tensors)
    if not isinstance(scale, Fraction):
        raise BrokenAdapter(f"{term.name}: a scale of {scale} is no number to go on with")
    strength = Fraction(term.weight) * scale
    if strength and not _BELOW_F32 <= abs(strength) < _BEYOND_F32:
        nearer = "larger weight, or 0" if abs(strength) < 1 else "smaller weight"
        raise RefusedInput(f"{term}: F32 does not hold such a strength", mend=f"Use a {nearer}.")
    return strength


def _rank(tensors: Roles) -> int:
    return tensors[R.DOWN].shape[0] if R.DOWN in tensors else _pair(tensors).rank


def _pair(tensors: Roles) -> Pair:
    pair = deltas.delta(tensors).pair()  # type: ignore[attr-defined] # has_pair has said so
    assert isinstance(pair, Pair)
    return pair


def _when_read(dtype: str, shape: Shape, value: Callable[[], Tensor]) -> LazyTensor:
    """A tensor that is computed, and rounded once, whenever it is read: all of them at once would be the file twice over."""

    def chunks() -> Iterable[Buffer]:
        return deltas.lazy(value(), dtype).chunks()

    return LazyTensor(dtype, shape, chunks)
