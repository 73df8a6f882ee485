"""Casts: every floating-point tensor in another dtype, rounded once."""

from __future__ import annotations

from collections.abc import Iterable

from adapterhub.adapter import Adapter
from adapterhub.operations.ledger import Ledger
from adapterhub.tensors import FLOATS, LazyTensor


def cast(adapter: Adapter, dtype: str, ledger: Ledger) -> Adapter:
    """The adapter in `dtype`; integers are never cast."""
    tensors = dict(adapter.tensors)
    for key, tensor in tensors.items():
        if tensor.dtype in FLOATS and tensor.dtype != dtype:
            tensors[key] = _cast(tensor, dtype)
            ledger.replace([key], [key], "cast", f"{tensor.dtype} to {dtype}")
    return adapter.with_tensors(tensors)


def _cast(tensor: LazyTensor, dtype: str) -> LazyTensor:
    """Computed when it is written, so that one tensor at a time is held."""

    def chunks() -> Iterable[bytes]:
        from adapterhub.operations.lora import deltas

        yield deltas.lazy(deltas.tensor(tensor), dtype).read()

    return LazyTensor(dtype, tensor.shape, chunks)
