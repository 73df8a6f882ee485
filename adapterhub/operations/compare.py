"""How far two adapters do the same, module by module: bytes first, ΔW in float64 where they differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

from adapterhub.adapter import Adapter, Kind, Module, Role, Roles
from adapterhub.algorithms import algorithm_of, total_scale
from adapterhub.fingerprint import structure
from adapterhub.operations.base import Base
from adapterhub.tensors import Buffer, LazyTensor

if TYPE_CHECKING:
    from torch import Tensor

# The same numbers along the other axis do something else.
_ALONG_AN_AXIS = frozenset({Role.DORA_SCALE, Role.IA3_L})
_PLAIN = frozenset({Role.VECTORS, Role.OUTPUT_VECTORS, Role.LAYER_WEIGHT, Role.LAYER_BIAS})
"""Roles that are compared as they are."""
_IN_SCALE = (Role.ALPHA, Role.SCALE, Role.SCALAR)


class Gap(NamedTuple):
    """The largest |ΔW_b - ΔW_a| of a module, bias included, and the same over max|ΔW_a|."""

    max_abs: float
    relative: float

    def max(self, other: Gap) -> Gap:
        """The larger of each."""
        return Gap(max(self.max_abs, other.max_abs), max(self.relative, other.relative))


SAME = Gap(0.0, 0.0)
DIFFERENT = Gap(math.inf, math.inf)
NOISE = 1e-13
"""A relative gap that the float64 arithmetic of the comparison itself can make."""


def counterparts(a: Adapter, b: Adapter) -> dict[Module, Module]:
    """For each module of `a` the one of `b` that it is to be compared with.

    Tokens of embeddings are matched by their order where both have as many: a layout may call them by the file's name.
    """
    mine, theirs = a.modules(), b.modules()
    if a.kind is b.kind is Kind.EMBEDDING:
        by_order = [(x, y) for part in a.components() for x, y in _matched(mine, theirs, part)]
        return dict(by_order)
    return {module: module for module in mine if module in theirs}


def _matched(mine: Iterable[Module], theirs: Iterable[Module], component: str) -> Iterable[tuple[Module, Module]]:
    ours = [module for module in mine if module.component == component]
    others = [module for module in theirs if module.component == component]
    return zip(ours, others, strict=True) if len(ours) == len(others) else ((m, m) for m in ours if m in others)


def gaps(a: Adapter, b: Adapter, base: Base) -> Iterator[tuple[Module, Gap]]:
    """The gap of every module that both have."""
    mine, theirs = a.modules(), b.modules()
    otherwise = structure(a) != structure(b)
    for module, other in counterparts(a, b).items():
        yield module, DIFFERENT if otherwise else gap(module, mine[module], theirs[other], base)


def gap(module: Module, a: Roles, b: Roles, base: Base) -> Gap:
    """The gap of one module. Equal factors and scale need no arithmetic; NaN counts as an infinite gap."""
    if same(a, b):
        return SAME
    if plain := _PLAIN & (a.keys() | b.keys()):
        return max((distance(_value(a, role), _value(b, role)) for role in plain), key=lambda gap: gap.relative)
    weights = distance(_change(module, a, base), _change(module, b, base))
    return weights.max(distance(_bias(module, a, base), _bias(module, b, base)))


def same(a: Roles, b: Roles) -> bool:
    """Whether two modules hold the same factors, byte for byte, at the same scale."""
    mine, theirs = (tensors.keys() - set(_IN_SCALE) for tensors in (a, b))
    if mine != theirs or any(a[role].shape[:1] != b[role].shape[:1] for role in _ALONG_AN_AXIS & mine):
        return False
    return _scale(a) == _scale(b) and all(_same_bytes(a[role], b[role]) for role in mine)


def _scale(tensors: Roles) -> object:
    algorithm = algorithm_of(tensors)
    if algorithm is not None and not algorithm.factors:  # alpha is a constraint, or nothing
        return tensors[Role.ALPHA].read() if Role.ALPHA in tensors and algorithm.needs_base else None
    return total_scale(tensors)


def _same_bytes(a: LazyTensor, b: LazyTensor) -> bool:
    if a.dtype != b.dtype or a.size != b.size:
        return False
    if a.chunks is b.chunks:
        return True
    return all(x == y for x, y in zip_longest(_steps(a), _steps(b)))


def _steps(tensor: LazyTensor, step: int = 1 << 22) -> Iterator[Buffer]:
    """The bytes in pieces of one length, whatever the source's own are."""
    pending = bytearray()
    for chunk in tensor.chunks():
        pending += chunk
        while len(pending) >= step:
            yield bytes(pending[:step])
            del pending[:step]
    if pending:
        yield bytes(pending)


def _change(module: Module, tensors: Roles, base: Base) -> Tensor:
    from adapterhub.operations.lora import deltas

    found = deltas.delta(tensors)
    if not found.needs_base:
        return found.matrix().flatten()
    weight = base.value(module)
    return deltas.change(tensors, base.stand_in(module, tensors) if weight is None else weight).flatten()


def _bias(module: Module, tensors: Roles, base: Base) -> Tensor | None:
    from adapterhub.operations.lora import deltas

    return deltas.delta(tensors).bias(base.value(module, bias=True))


def _value(tensors: Roles, role: Role) -> Tensor | None:
    from adapterhub.operations.lora import deltas

    return deltas.tensor(tensors[role]).flatten() if role in tensors else None


def distance(a: Tensor | None, b: Tensor | None) -> Gap:
    """The gap between two values of as many numbers; None stands for zeros."""
    if a is None and b is None:
        return SAME
    a, b = _or_zero(a, b), _or_zero(b, a)
    if a.numel() != b.numel():
        return Gap(math.inf, math.inf)
    if not a.numel():
        return SAME
    from torch.linalg import vector_norm

    largest = float(vector_norm(a, math.inf))
    furthest = float(vector_norm(b.flatten().sub(a.flatten()), math.inf))
    if math.isnan(furthest):
        return Gap(math.inf, math.inf)
    return Gap(furthest, furthest / largest if largest else (0.0 if furthest == 0 else math.inf))


def _or_zero(value: Tensor | None, other: Tensor | None) -> Tensor:
    """`value`, or zeros like `other` where there is none."""
    if value is not None:
        return value
    assert other is not None
    return other * 0
