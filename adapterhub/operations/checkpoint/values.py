"""What the numbers of a whole model say, and whether it descends from a base."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from adapterhub.documents import Problem
from adapterhub.layouts.base import Reading
from adapterhub.operations.problems import error
from adapterhub.operations.values import numbers
from adapterhub.tensors import FLOATS


def value_faults(reading: Reading, base: Path | None) -> Iterator[Problem]:
    """Tensor by tensor; then what a base says."""
    for held, tensor in reading.adapter.tensors.items():
        if tensor.dtype in FLOATS and (broken := numbers(tensor).broken):
            yield error("not-finite", ".".join(held[:2]), f"{broken} numbers are NaN or infinite",
                        "The training or a merge failed, or the dtype is too small: get an earlier or a float32 file.")  # fmt: skip
    if base is not None:
        from adapterhub.operations.checkpoint.descent import descent

        yield from descent(reading.adapter, base)
