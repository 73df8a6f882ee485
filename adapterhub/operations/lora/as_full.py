"""Any algorithm as a full difference: ΔW itself."""

from __future__ import annotations

from torch import Tensor

from adapterhub.adapter import Role, Roles
from adapterhub.operations.lora.deltas import Delta, change, delta, lazy
from adapterhub.operations.lora.shapes import require_fitting
from adapterhub.tensors import LazyTensor, Shape

R = Role
_FULL = frozenset({R.DIFF, R.DIFF_B, R.W_NORM, R.B_NORM})


def as_full(
    tensors: Roles,
    weight: Tensor | None = None,
    *,
    dtype: str = "F32",
    weight_shape: Shape | None = None,
    base_bias: Tensor | None = None,
) -> dict[Role, LazyTensor]:
    """DIFF, and DIFF_B where the bias changes, of one module; a norm stays a norm, and what is full stays as it is.

    Computed tensors are rounded once to `dtype`. DIFF has the shape of `weight`, else `weight_shape`, else what the
    factors show. Raises NeedsBase where ΔW takes `weight` and there is none, BrokenAdapter where the module does not fit that
    shape. `base_bias` is the module's bias, which only PEFT's IA3 scales.
    """
    found = delta(tensors)
    if found.name in ("full", "norm") and R.SET_WEIGHT not in tensors:
        return {role: tensor for role, tensor in tensors.items() if role in _FULL}
    shape = tuple(weight.shape) if weight is not None else weight_shape
    if shape is not None:
        require_fitting(tensors, shape)
    matrix = change(tensors, weight)
    shape = shape or tuple(matrix.shape)
    return {R.DIFF: lazy(matrix, dtype).reshape(*shape), **bias_of(found, tensors, base_bias, dtype)}


def bias_of(found: Delta, tensors: Roles, base: Tensor | None, dtype: str) -> dict[Role, LazyTensor]:
    """DIFF_B of one module: the stored tensor where nothing is added to it, else the sum, rounded once to `dtype`."""
    if R.UP_BIAS not in tensors and (R.IA3_L not in tensors or base is None):
        return {R.DIFF_B: tensors[R.DIFF_B]} if R.DIFF_B in tensors else {}
    bias = found.bias(base)
    return {} if bias is None else {R.DIFF_B: lazy(bias, dtype)}
