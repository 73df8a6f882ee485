"""Tensors of one number each, of which a file has hundreds: alphas, scales."""

from __future__ import annotations

from collections.abc import Collection

from adapterhub.files.source import Range, read_each
from adapterhub.tensors import LazyTensor, item, number


def items(tensors: Collection[LazyTensor]) -> list[float]:
    """The value of each of `tensors`, all of one element; the bytes of those that lie side by side in a file are read at once."""
    ranges = [tensor.chunks for tensor in tensors if isinstance(tensor.chunks, Range)]
    if len(ranges) < len(tensors):  # of a pickle, or made from metadata
        return list(map(item, tensors))
    return list(map(number, [tensor.dtype for tensor in tensors], read_each(ranges)))
