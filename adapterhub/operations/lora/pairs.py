"""Modules as products of two matrices: which are, and what is stored of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from adapterhub.adapter import Role, Roles
from adapterhub.algorithms import algorithm_of
from adapterhub.operations.lora.deltas import lazy
from adapterhub.operations.lora.deltas.lora import RESIDUALS
from adapterhub.operations.lora.deltas.truncation import Truncated
from adapterhub.tensors import FLOATS, Buffer, LazyTensor, Shape, scalar

if TYPE_CHECKING:
    from torch import Tensor

R = Role
_PRODUCTS = frozenset({"lora", "loha", "lokr"})
_SCALES = frozenset({R.ALPHA, R.SCALE, R.SCALAR})


def has_pair(tensors: Roles) -> bool:
    """Whether ΔW is the product of two matrices, whatever the base: LoRA, LoHa, LoKr, without a residual or a magnitude."""
    algorithm = algorithm_of(tensors)
    return (
        algorithm is not None
        and algorithm.name in _PRODUCTS
        and RESIDUALS.isdisjoint(tensors)
        and R.DORA_SCALE not in tensors
    )


def needs_base(tensors: Roles) -> bool:
    """Whether ΔW is a function of W."""
    algorithm = algorithm_of(tensors)
    return R.DORA_SCALE in tensors or R.SET_WEIGHT in tensors or (algorithm is not None and algorithm.needs_base)


def dtype_of(*modules: Roles) -> str:
    """The dtype of all tensors; of several the widest that is usual, F32, or F64 where that is among them."""
    found = {tensor.dtype for tensors in modules for role, tensor in tensors.items()
             if role not in _SCALES and tensor.dtype in FLOATS}  # fmt: skip
    if len(found) == 1 and not found <= {"F8_E4M3", "F8_E5M2"}:
        return found.pop()
    return "F64" if "F64" in found else "F32"


def computed(dtype: str | None, *modules: Roles) -> str:
    """`dtype`, else F32, or F64 where a factor has that: for numbers that are not those of a file."""
    held = (tensor.dtype for tensors in modules for role, tensor in tensors.items() if role not in _SCALES)
    return dtype or ("F64" if "F64" in held else "F32")


def factors(cut: Truncated, row: Shape, dtype: str) -> dict[Role, LazyTensor]:
    """A LoRA of a scale of 1; `row` is the shape of a row of W."""
    rank = cut.up.shape[1]
    up, down = lazy(cut.up, dtype), lazy(cut.down, dtype)
    return {
        R.DOWN: down.reshape(rank, *row),
        R.UP: up.reshape(up.shape[0], rank, *(1 for _ in row[1:])),
        R.ALPHA: scalar(float(rank)),
    }


def when_read(dtype: str, shape: Shape, value: Callable[[], Tensor]) -> LazyTensor:
    """A tensor that is computed, and rounded once, whenever it is read: all of them at once would be the file twice over."""

    def chunks() -> Iterable[Buffer]:
        return lazy(value(), dtype).chunks()

    return LazyTensor(dtype, shape, chunks)
