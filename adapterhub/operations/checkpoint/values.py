"""What the numbers of a whole model say."""

from __future__ import annotations

from collections.abc import Iterator

from adapterhub.documents import Problem
from adapterhub.layouts.base import Reading
from adapterhub.layouts.checkpoint.aside import are_out_of_order, are_positions
from adapterhub.operations.problems import error, warning
from adapterhub.operations.values import numbers
from adapterhub.tensors import FLOATS


def value_faults(reading: Reading) -> Iterator[Problem]:
    """Tensor by tensor."""
    for held, tensor in reading.adapter.tensors.items():
        if tensor.dtype in FLOATS and (broken := numbers(tensor).broken):
            yield error("not-finite", ".".join(held[:2]), f"{broken} numbers are NaN or infinite",
                        "The training or a merge failed, or the dtype is too small: get an earlier or a float32 file.")  # fmt: skip
        if are_positions(held) and are_out_of_order(tensor):
            yield warning("position-ids", held.module, "position ids that are not 0, 1, 2 …: prompts are cut or shifted",
                          "adapterhub convert writes them anew.")  # fmt: skip
