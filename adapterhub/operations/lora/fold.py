"""Folding: alpha / rank multiplied into a factor, for layouts that have no place for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction

from adapterhub.adapter import Role, Roles
from adapterhub.algorithms import algorithm_of, missing, scale_of, total_scale
from adapterhub.documents import Problem
from adapterhub.errors import BrokenAdapter
from adapterhub.operations.problems import warning
from adapterhub.tensors import FLOATS, Buffer, LazyTensor

R = Role
_SCALES = frozenset({R.ALPHA, R.SCALE, R.SCALAR})
_CONSTRAINED = ("oft", "boft")  # their alpha bounds a norm and scales nothing
_DIGITS = {"F8_E5M2": 3, "F8_E4M3": 4, "BF16": 8, "F16": 11, "F32": 24, "F64": 53}
_SMALLEST_NORMAL = {"F8_E5M2": 2.0**-14, "F8_E4M3": 2.0**-6, "BF16": 2.0**-126, "F16": 2.0**-14, "F32": 2.0**-126,
                    "F64": 2.0**-1022}  # fmt: skip
_LARGE = 1 << 900
_UNSURE = 2.0**-60
_ROOM = "In fp32 there is more room: adapterhub convert --dtype fp32 first."


def fold(tensors: Roles) -> tuple[dict[Role, LazyTensor], bool]:
    """One module without ALPHA, SCALE and SCALAR, and whether every value of its ΔW is bit for bit what it was.

    The scale goes into one factor of each product: the first whose values stay exact in their dtype (a power of two,
    nothing overflowing or sinking below the smallest), else the one that loses least. What is outside the product but
    scaled with it (PEFT's bias, A1111's dense residual) is multiplied too. Where the scale is 1, the tensors are the same
    objects and torch is not imported; else the new ones hold no values: they are computed when their bytes are asked for.
    OFT's alpha is no scale and stays. Raises BrokenAdapter for half a module and for a scale that is not finite.
    """
    algorithm = algorithm_of(tensors)
    if algorithm is None or algorithm.name in _CONSTRAINED:
        return dict(tensors), True
    if lacking := missing(tensors, algorithm):
        raise BrokenAdapter(f"a {algorithm.name} module without {', '.join(sorted(lacking))}")
    folded = {role: tensor for role, tensor in tensors.items() if role not in _SCALES}
    if not algorithm.factors:
        return folded, True
    scale, bias_scale = _finite(total_scale(tensors)), _finite(scale_of(tensors))
    exact = True
    for factors in algorithm.factors:
        exact &= _multiply(folded, factors, scale)
    exact &= _multiply(folded, (R.RESIDUAL,), scale, optional=True)
    exact &= _multiply(folded, (R.UP_BIAS,), bias_scale, optional=True)
    return folded, exact


def sunk(before: LazyTensor, after: LazyTensor, factor: float) -> int:
    """How many numbers of `after`, which is `before` · `factor`, fell below the smallest normal number of their dtype and lost
    digits, where that cost all of them together (Frobenius) more than rounding can.
    """
    from adapterhub.operations.lora.deltas.values import tensor

    if not factor or after.dtype not in _DIGITS:
        return 0
    values, stored = tensor(before), tensor(after)
    if not (stored / factor - values).norm() > 2.0 ** (1 - _DIGITS[after.dtype]) * values.norm():
        return 0
    below = ((values * factor).abs() < _SMALLEST_NORMAL[after.dtype]) & (stored != values * factor)
    return int(((values != 0) & (below | (stored == 0))).sum())


def sunken(count: int, mend: str = _ROOM) -> Iterator[Problem]:
    """What is told of `count` such numbers."""
    if count:
        yield warning(
            "underflow", "", f"{count} numbers became zero or lost digits: they are too small for their dtype", mend
        )


def _multiply(
    tensors: dict[Role, LazyTensor], roles: Iterable[Role], scale: Fraction, *, optional: bool = False
) -> bool:
    """Multiplies one of `roles` in place; whether that was exact."""
    candidates = [role for role in roles if role in tensors and tensors[role].dtype in FLOATS]
    if scale == 1 or (optional and not candidates):
        return True
    if not candidates:
        raise BrokenAdapter("alpha has no factor that it could be folded into")
    losses = _losses(tensors, candidates, scale)
    best = min(losses, key=losses.__getitem__)
    tensors[best] = _times(tensors[best], scale)
    return losses[best] == 0


def _losses(tensors: Roles, roles: Iterable[Role], scale: Fraction) -> dict[Role, float]:
    """What rounding would cost each factor, up to the first that loses nothing."""
    losses: dict[Role, float] = {}
    for role in roles:
        losses[role] = _loss(tensors[role], scale)
        if losses[role] == 0:
            break
    return losses


def _loss(source: LazyTensor, scale: Fraction) -> float:
    """‖rounded − exact‖ / ‖exact‖ of `source` times `scale`; 0 only where every single product is exact.

    rounded · q = value · p is asked of float64, which holds both sides exactly while their digits fit; where they do not,
    nothing is called exact.
    """
    from adapterhub.operations.lora.deltas.values import tensor

    sure = _fits(source.dtype, scale.numerator) and _fits(source.dtype, scale.denominator)
    p, q = (float(scale.numerator), float(scale.denominator)) if sure else (float(scale), 1.0)
    values, rounded = tensor(source), tensor(_times(source, scale))
    exact = (values * p)[values.isfinite()]
    wrong, size = float((rounded[values.isfinite()] * q - exact).norm()), float(exact.norm())
    loss = math.inf if math.isnan(wrong) else wrong / (size or 1.0)
    return loss if sure else max(loss, _UNSURE)


def _fits(dtype: str, factor: int) -> bool:
    """Whether float64 holds every product of a `dtype` and `factor`."""
    odd = abs(factor) // (factor & -factor) if factor else 1
    return abs(factor) < _LARGE and (odd == 1 or _DIGITS[dtype] + odd.bit_length() <= 53)


def _times(source: LazyTensor, scale: Fraction) -> LazyTensor:
    """`source` · `scale`, rounded once to the dtype of `source`, each time that it is read."""

    def chunks() -> Iterator[Buffer]:
        from adapterhub.operations.lora.deltas.values import lazy, tensor

        yield from lazy(tensor(source) * float(scale), source.dtype).chunks()

    return LazyTensor(source.dtype, source.shape, chunks)


def _finite(scale: Fraction | float) -> Fraction:
    if not isinstance(scale, Fraction):
        raise BrokenAdapter(f"a scale of {scale} cannot be folded")
    return scale
