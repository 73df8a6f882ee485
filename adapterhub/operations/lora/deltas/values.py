"""Values between LazyTensor and torch, for every dtype that adapterhub computes with."""

from __future__ import annotations

import torch
from torch import Tensor

from adapterhub.errors import RefusedInput
from adapterhub.tensors import Buffer, LazyTensor, from_bytes

_TORCH = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "U16": torch.uint16,
    "I32": torch.int32, "U32": torch.uint32, "I64": torch.int64, "U64": torch.uint64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip
_NARROW = frozenset({"F16", "BF16", "F8_E4M3", "F8_E5M2"})


def tensor(lazy: LazyTensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """The values of `lazy` as `dtype`. RefusedInput where its dtype is one that is only ever moved (F4, F6, complex …)."""
    data = bytearray()
    for chunk in lazy.chunks():
        data += chunk
    if not data:
        return torch.empty(lazy.shape, dtype=dtype)
    return torch.frombuffer(data, dtype=_stored(lazy.dtype)).reshape(lazy.shape).to(dtype)


def lazy(value: Tensor, dtype: str) -> LazyTensor:
    """`value` rounded once, half to even, to the safetensors `dtype`; it holds the bytes."""
    value = value.detach()
    if dtype in _NARROW and value.dtype == torch.float64:
        value = _round_to_odd(value)
    stored = value.to(_stored(dtype)).contiguous()
    data: Buffer = stored.reshape(-1).view(torch.uint8).numpy().data
    return from_bytes(dtype, tuple(stored.shape), data)


def _stored(dtype: str) -> torch.dtype:
    if dtype not in _TORCH:
        raise RefusedInput(
            f"{dtype} values are only moved, never computed with", mend="Cast the file to F16 or F32 first."
        )
    return _TORCH[dtype]


def _round_to_odd(value: Tensor) -> Tensor:
    """float64 → float32 such that a second rounding to fewer than 23 digits ends where a single one would.

    torch goes from float64 to its narrow types by way of float32, and so rounds twice: 1 + 2⁻¹¹ + 2⁻⁴⁰ would be 1 in
    float16. An inexact value whose last digit is even moves to its odd neighbour (Boldo and Melquiond, 2008).
    """
    near = value.to(torch.float32)
    widened = near.to(torch.float64)
    bits = near.view(torch.int32)
    astray = (widened != value) & ~value.isnan() & (bits & 1 == 0)
    step = torch.where(widened.abs() > value.abs(), -1, 1).to(torch.int32)
    return torch.where(astray, bits + step, bits).view(torch.float32)
