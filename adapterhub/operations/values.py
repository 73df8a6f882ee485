"""What the numbers of an adapter say: not finite, all zero, out of float16's range. Streamed as bits, 4 MiB at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Literal, NamedTuple

from adapterhub.adapter import Module, Role, Roles
from adapterhub.algorithms import Algorithm, algorithm_of, missing, rank_of, total_scale
from adapterhub.documents import Problem
from adapterhub.errors import RefusedInput
from adapterhub.operations.lora.module_faults import is_number
from adapterhub.operations.problems import warning
from adapterhub.tensors import Buffer, LazyTensor, from_bytes, item, largest_code

R = Role
HALF_MAX = 65504.0
"""The largest number of float16."""
HALF_NORMAL = 2.0**-14
"""The smallest number that float16 holds with all of its digits; below 2⁻²⁵ it is 0."""

# dtype → (unsigned type of its size, magnitude from which on a value is infinite or NaN).
_BITS = {
    "F8_E4M3": ("u1", 0x7F), "F8_E5M2": ("u1", 0x7C), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80),
    "F32": ("<u4", 0x7F80_0000), "F64": ("<u8", 0x7FF0_0000_0000_0000),
}  # fmt: skip
_SWITCHES = frozenset({R.ALPHA, R.ON_INPUT, R.OFT_SCALED, R.OFT_TERMS, R.RESIDUAL_INDICES, R.RESIDUAL_SIZE})
"""Not values of a change; alpha has checks of its own."""
_SCALARS = frozenset({R.SCALE, R.SCALAR})
_NEUTRAL_AT_ONE = frozenset({R.SET_WEIGHT, R.IA3_L, R.OFT_DIAG, R.RESCALE, R.BOFT_S})
"""Roles whose zeros do something."""
_SUMMED = frozenset({
    R.DOWN, R.MID, R.HADA_W1_B, R.HADA_W2_B, R.HADA_T1, R.HADA_T2, R.LOKR_W1_B, R.LOKR_W2_B, R.LOKR_T2,
})  # fmt: skip
"""Roles that bring a sum over the rank into the product."""


class Numbers(NamedTuple):
    """`largest` finite magnitude, and how many values are NaN or infinite."""

    largest: float
    broken: int


def numbers(tensor: LazyTensor) -> Numbers:
    """What a tensor of floats holds. KeyError for other dtypes."""
    import numpy as np

    width = np.dtype(_BITS[tensor.dtype][0]).itemsize
    judged = [_judged(chunk, tensor.dtype) for chunk in tensor.chunks()]
    largest = max((top for top, _ in judged), default=0).to_bytes(width, "little")
    return Numbers(item(from_bytes(tensor.dtype, (), largest)), sum(broken for _, broken in judged))


def _judged(chunk: Buffer, dtype: str) -> tuple[int, int]:
    """The bits of the largest finite magnitude of some numbers, and how many are NaN or infinite."""
    import numpy as np

    unsigned, infinity = _BITS[dtype]
    codes = np.frombuffer(chunk, unsigned)
    top = largest_code(codes)
    if top < infinity:
        return top, 0
    bits = codes & ((1 << (8 * codes.itemsize - 1)) - 1)
    finite = bits[bits < infinity]
    return int(finite.max(initial=0)), bits.size - finite.size


def heeded(tensors: Roles, found: dict[Role, int]) -> Roles:
    """The same tensors; whoever reads one leaves in `found` how many of its values are NaN or infinite, if any are."""
    return {
        role: LazyTensor(tensor.dtype, tensor.shape, partial(_heeded, tensor, role, found))
        if tensor.dtype in _BITS and role not in _SWITCHES else tensor
        for role, tensor in tensors.items()
    }  # fmt: skip


def _heeded(tensor: LazyTensor, role: Role, found: dict[Role, int]) -> Iterator[Buffer]:
    broken = 0
    for chunk in tensor.chunks():
        broken += _judged(chunk, tensor.dtype)[1]
        if broken:
            found[role] = max(broken, found.get(role, 0))
        yield chunk


def not_finite(where: str, found: Mapping[Role, int], severity: Literal["error", "warning"] = "error") -> Problem:
    """What is told of a module whose tensors hold so many values that are NaN or infinite."""
    told = ", ".join(f"{role} has {count}" for role, count in found.items())
    return Problem(severity=severity, code="not-finite", where=where, message=f"values that are NaN or infinite: {told}",
                   mend="The training failed or was saved in too small a dtype: get an earlier or a float32 file.")  # fmt: skip


def value_faults(module: Module, tensors: Roles, *, fits: bool = True) -> Iterator[Problem]:
    """What is wrong with the values of one module. Every tensor is read once; a change that `fits` may be computed."""
    where = ".".join(module)
    found = {role: numbers(tensor) for role, tensor in tensors.items()
             if tensor.dtype in _BITS and role not in _SWITCHES}  # fmt: skip
    if broken := {role: told.broken for role, told in found.items() if told.broken}:
        yield not_finite(where, broken)
        return
    algorithm = algorithm_of(tensors)
    if algorithm is None or missing(tensors, algorithm):
        return
    largest = {role: told.largest for role, told in found.items()}
    if rank_of(tensors) != 0 and does_nothing(algorithm, largest):
        zero = ", ".join(role for role, value in largest.items() if not value)
        yield warning("all-zero", where, f"does nothing: {zero} holds zeros only",
                      "Harmless; if it should act, it was not trained.")  # fmt: skip
        return
    yield from _out_of_range(where, tensors, largest)
    if fits:
        yield from _product(where, tensors, algorithm, largest)


def does_nothing(algorithm: Algorithm, largest: Mapping[Role, float]) -> bool:
    """Whether one factor of every product is zero, and so is everything outside the products."""
    factors = {role for group in algorithm.factors for role in group}
    outside = [value for role, value in largest.items() if role not in factors and role not in _SCALARS]
    products = [any(largest.get(role) == 0 for role in group) for group in algorithm.factors]
    return bool(largest) and _NEUTRAL_AT_ONE.isdisjoint(largest) and all(products) and not any(outside)


def _out_of_range(where: str, tensors: Roles, largest: Mapping[Role, float]) -> Iterator[Problem]:
    for role in largest.keys() - _SCALARS:
        value, dtype = largest[role], tensors[role].dtype
        if value > HALF_MAX:
            yield warning("overflow", where, f"{role} reaches {value:.4g}, and float16 ends at 65504: infinite there",
                          "Keep it in F32 or BF16, and merge in such a dtype.")  # fmt: skip
        elif 0 < value < HALF_NORMAL:
            lost = "digits were lost when it was saved" if dtype == "F16" else f"{dtype} holds it, float16 loses digits"
            yield warning("underflow", where, f"{role} stays below {value:.4g}, under the normal range of float16: {lost}",
                          "Keep such a file in F32 or BF16.")  # fmt: skip


def _product(where: str, tensors: Roles, algorithm: Algorithm, largest: Mapping[Role, float]) -> Iterator[Problem]:
    """A change that float16 cannot hold. Its factors bound it, and only where the bound does not is it computed."""
    if _bound(tensors, algorithm, largest) <= HALF_MAX:
        return
    from adapterhub.operations.lora import deltas

    try:
        value = float(deltas.change(tensors, None).abs().max())
    except RefusedInput:  # ranks that do not meet, a fault of their own; or a base is needed
        return
    if value > HALF_MAX:
        yield warning("overflow", where, f"the change reaches {value:.4g}, and float16 ends at 65504: infinite once merged",
                      "Lower alpha if that is not meant, or merge in F32 or BF16.")  # fmt: skip


def _bound(tensors: Roles, algorithm: Algorithm, largest: Mapping[Role, float]) -> float:
    """What no value of the product exceeds; 0 where nothing can be said."""
    if not all(is_number(tensors[role]) for role in (R.ALPHA, *_SCALARS) if role in tensors):
        return 0.0
    factors = [role for group in algorithm.factors for role in group if role in tensors and role not in _SCALARS]
    scale = abs(float(total_scale(tensors)))
    if not factors or not math.isfinite(scale) or not largest.keys() >= set(factors):
        return 0.0
    sums = float(rank_of(tensors) or 1) ** len(_SUMMED & tensors.keys())
    return scale * sums * math.prod(largest[role] for role in factors)
