"""The sum of what several LoRAs do to one module, or what a method merges of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from adapterhub.adapter import Module, Role, Roles
from adapterhub.documents import Action
from adapterhub.errors import UnknownName, UsageError
from adapterhub.metadata import utf8
from adapterhub.operations.base import Base
from adapterhub.operations.lora import deltas
from adapterhub.operations.lora.effect import Effect, added, effect
from adapterhub.operations.lora.low_rank import Bound, decomposed
from adapterhub.operations.lora.methods import METHODS, Method, seed_of
from adapterhub.operations.lora.pairs import computed, dtype_of, has_pair, when_read
from adapterhub.operations.lora.products import Sum, approximated, product
from adapterhub.operations.lora.scale import scaled
from adapterhub.operations.lora.term import Term
from adapterhub.operations.lora.thresholds import threshold
from adapterhub.operations.work import Cut
from adapterhub.tensors import LazyTensor, Shape

R = Role
_LINEAR = ("linear", "svd")


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
    """One module, what the ledger is told, and how many numbers are too small for their dtype."""

    tensors: Roles
    action: Action
    reason: str
    cut: Cut | None = None
    sunk: int = 0


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
    reason = utf8(" + ".join(map(str, terms)))
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
        made, cut, sunk = product(changing, mixing.within, dtype)
    else:
        made, cut, sunk = _difference(module, changing, mixing, dtype)
    if R.W_NORM in made and R.DIFF_B in bias:
        bias = {R.B_NORM: bias[R.DIFF_B]}
    return Combined(made | bias, "compute", f"{reason}; {cut}" if cut else reason, cut, sunk)


def _biases(module: Module, terms: Sequence[Term], mixing: Mixing, dtype: str | None) -> dict[Role, LazyTensor]:
    """What is added to the bias."""
    found = {term.number: (term.weight, deltas.delta(term.tensors).bias()) for term in terms}
    parts = {number: weight * bias for number, (weight, bias) in found.items() if bias is not None}
    stored = computed(dtype, *(term.tensors for term in terms))
    return {R.DIFF_B: deltas.lazy(mixing.of(module, parts), stored)} if parts else {}


def _difference(module: Module, terms: Sequence[Term], mixing: Mixing, dtype: str | None) -> Sum:
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
        return Sum({role: when_read(computed(dtype, *modules), shape, merged)})
    found = parts()
    svd = decomposed(mixing.of(module, found).reshape(shape).flatten(1), mixing.within)
    largest = sum(float(part.norm()) for part in found.values())
    return approximated(svd, mixing.within, largest, shape[1:], dtype or dtype_of(*modules))


def _shape(modules: Sequence[Roles]) -> Shape:
    """The shape of ΔW: of the one that shows the most of it."""
    stored = [tensors[R.DIFF].shape for tensors in modules if R.DIFF in tensors]
    return max(stored or [tuple(deltas.change(tensors, None).shape) for tensors in modules], key=len)
