"""Any algorithm as a LoRA: exactly, at whatever rank that takes, or as its best approximation by a given one."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from torch import Tensor

from adapterhub.adapter import Role, Roles
from adapterhub.algorithms import total_scale
from adapterhub.errors import BrokenAdapter, UsageError
from adapterhub.operations.lora.as_full import bias_of
from adapterhub.operations.lora.deltas import Additive, Delta, change, delta, lazy
from adapterhub.operations.lora.deltas.truncation import Pair, Truncated, of_matrix
from adapterhub.operations.lora.pairs import computed
from adapterhub.operations.lora.shapes import require_fitting
from adapterhub.tensors import LazyTensor, Shape, holds, scalar

R = Role
_PLAIN = frozenset({R.DOWN, R.UP, R.ALPHA, R.UP_BIAS, R.DIFF_B})


class AsLora(NamedTuple):
    """DOWN, UP, ALPHA and DIFF_B of one module; `error` is ‖what was cut off‖ / ‖ΔW‖ (Frobenius), 0 where `exact`.

    Exact means: the same in exact arithmetic. A value that is one product of two half-precision ones is exact in F32 too;
    sums of them (tucker cores) are rounded once.
    """

    tensors: dict[Role, LazyTensor]
    exact: bool
    error: float


def as_lora(
    tensors: Roles,
    weight: Tensor | None = None,
    *,
    rank: int | None = None,
    dtype: str | None = None,
    weight_shape: Shape | None = None,
    base_bias: Tensor | None = None,
) -> AsLora:
    """One module as a LoRA of `rank`, or exactly where `rank` is None or is enough.

    Exact are: LoRA, which stays; LoCon with a core, at its rank; AdaLoRA; LoHa, with cores or without, at rank r²
    (Khatri-Rao products); LoKr at r₁·r₂ (Kronecker products of the factors). All else, DoRA too, is a singular value
    decomposition of ΔW and takes `rank`, and `weight` where ΔW depends on it. Norms and bare biases stay as they are.

    Computed factors have `dtype`, else F32 (F64 where a factor has it); they are 2-D, or (r, I, k, k) and
    (O, r, 1, 1) where `weight`, `weight_shape` or the factors show a kernel. Raises UsageError where `rank` is missing or
    is not positive, NeedsBase, BrokenAdapter. `base_bias`: see `as_full`.
    """
    if rank is not None and rank < 1:
        raise UsageError(f"a rank of {rank} holds nothing", mend="Give a rank of 1 or more.")
    found = delta(tensors)
    if _stays(found, tensors, rank):
        return AsLora(dict(tensors), exact=True, error=0.0)
    dtype = computed(dtype, tensors)
    shape = tuple(weight.shape) if weight is not None else weight_shape
    if shape is not None:
        require_fitting(tensors, shape)
    bias = bias_of(found, tensors, base_bias, dtype)
    pair = found.pair() if isinstance(found, Additive) else None
    if pair is not None and (rank is None or pair.rank <= rank):
        return AsLora(_exact(pair, tensors, shape, dtype) | bias, exact=True, error=0.0)
    if rank is None:
        raise UsageError(f"a change by {found.name} is no product of two small matrices",
                         mend="Give --rank for its best approximation of that rank.")  # fmt: skip
    cut, row = _cut(found, pair, tensors, weight, rank)
    factors = _shaped(lazy(cut.up, dtype), lazy(cut.down, dtype), row if shape is None else shape[1:])
    return AsLora(factors | {R.ALPHA: scalar(cut.up.shape[1])} | bias, exact=False, error=cut.error)


def _stays(found: Delta, tensors: Roles, rank: int | None) -> bool:
    if found.name == "norm" or tensors.keys() <= {R.DIFF_B, R.ALPHA}:
        return True
    if R.DIFF in tensors:
        return len(tensors[R.DIFF].shape) < 2
    return tensors.keys() <= _PLAIN and (rank is None or tensors[R.DOWN].shape[0] <= rank)


def _exact(pair: Pair, tensors: Roles, shape: Shape | None, dtype: str) -> dict[Role, LazyTensor]:
    alpha, factor = _alpha(total_scale(tensors), pair.rank)
    up = tensors[R.UP] if R.UP in pair.stored and factor == 1 else lazy(pair.up * factor, dtype)
    down = tensors[R.DOWN] if R.DOWN in pair.stored else lazy(pair.down, dtype)
    return _shaped(up, down, pair.row if shape is None else shape[1:]) | {R.ALPHA: scalar(alpha)}


def _alpha(scale: Fraction | float, rank: int) -> tuple[float, float]:
    """alpha and what is left for a factor, so that alpha / rank · rest is `scale`: nothing, where F32 holds that alpha."""
    if not isinstance(scale, Fraction):
        raise BrokenAdapter(f"a scale of {scale} is no number to go on with")
    alpha = scale * rank
    kept = holds("F32", float(alpha)) and Fraction(float(alpha)) == alpha
    return (float(alpha), 1.0) if kept else (float(rank), float(scale))


def _cut(found: Delta, pair: Pair | None, tensors: Roles, weight: Tensor | None, rank: int) -> tuple[Truncated, Shape]:
    """The best approximation and the shape of a row of ΔW; by its factors where it has some, else by ΔW itself."""
    if isinstance(found, Additive) and pair is not None:
        return found.truncated(rank), pair.row
    matrix = change(tensors, weight)
    return of_matrix(matrix.flatten(1)).cut(rank), tuple(matrix.shape[1:])


def _shaped(up: LazyTensor, down: LazyTensor, row: Shape) -> dict[Role, LazyTensor]:
    """Both in the dimensions of a weight whose rows have the shape `row`."""
    outputs, rank = up.shape[:2]
    return {R.DOWN: down.reshape(rank, *row), R.UP: up.reshape(outputs, rank, *(1 for _ in row[1:]))}
