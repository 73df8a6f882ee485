"""Storages and the tensors over them: views within the bounds of the bytes that are there, read when they are asked for.

Source: torch `_utils.py` (`_rebuild_tensor_v2`, `_rebuild_tensor_v3`), `storage.py` (the dtypes of storages).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from adapterhub.files.limits import EXPANSION, FREE_ELEMENTS, Limits
from adapterhub.files.pickles.state import Refusal
from adapterhub.tensors import Buffer, LazyTensor, Shape

_HUGE = 1 << 63


class Element(NamedTuple):
    """A dtype of torch: its name here, the bytes of one element, those that swap with the byte order, and how many
    values one element packs.
    """

    dtype: str
    width: int
    swapped: int
    packed: int = 1


ELEMENTS = {
    "bool": Element("BOOL", 1, 1), "uint8": Element("U8", 1, 1), "int8": Element("I8", 1, 1),
    "int16": Element("I16", 2, 2), "uint16": Element("U16", 2, 2), "int32": Element("I32", 4, 4),
    "uint32": Element("U32", 4, 4), "int64": Element("I64", 8, 8), "uint64": Element("U64", 8, 8),
    "float16": Element("F16", 2, 2), "bfloat16": Element("BF16", 2, 2), "float32": Element("F32", 4, 4),
    "float64": Element("F64", 8, 8), "complex64": Element("C64", 8, 4), "complex128": Element("C128", 16, 8),
    "float8_e4m3fn": Element("F8_E4M3", 1, 1), "float8_e5m2": Element("F8_E5M2", 1, 1),
    "float8_e4m3fnuz": Element("F8_E4M3FNUZ", 1, 1), "float8_e5m2fnuz": Element("F8_E5M2FNUZ", 1, 1),
    "float8_e8m0fnu": Element("F8_E8M0", 1, 1), "float4_e2m1fn_x2": Element("F4", 1, 1, packed=2),
}  # fmt: skip
STORAGES = {
    "BoolStorage": "bool", "ByteStorage": "uint8", "CharStorage": "int8", "ShortStorage": "int16", "IntStorage": "int32",
    "LongStorage": "int64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16", "FloatStorage": "float32",
    "DoubleStorage": "float64", "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
}  # fmt: skip
"""Classes of `torch`, and what their elements are."""


@dataclass(slots=True, eq=False)
class Storage:
    """`count` elements in the file under `key`; `read(start, length)` is there once the container knows where."""

    element: Element
    key: str
    device: str
    count: int
    big_endian: bool = False
    read: Callable[[int, int], Iterable[Buffer]] | None = None

    @property
    def nbytes(self) -> int:
        return self.count * self.element.width

    def pieces(self, element: Element, start: int, length: int) -> Iterable[Buffer]:
        """`length` bytes from `start`, little-endian."""
        if self.read is None:
            raise ValueError(f"storage {self.key} has no bytes")
        pieces = self.read(start, length)
        return _swapped(pieces, element.swapped) if self.big_endian and element.swapped > 1 else pieces


@dataclass(slots=True, eq=False)
class View:
    """The bytes of one tensor: `length` from `start` in its storage, gathered by `shape` and `stride` (in elements) where
    they do not lie in row-major order.
    """

    storage: Storage
    element: Element
    start: int
    length: int
    shape: Shape = ()
    stride: Shape = ()

    def __call__(self) -> Iterable[Buffer]:
        pieces = self.storage.pieces(self.element, self.start, self.length)
        return _gathered(pieces, self.shape, self.stride, self.element.width) if self.stride else pieces


def stored_bytes(tensors: Iterable[LazyTensor]) -> int:
    """The bytes of all storages that `tensors` lie in, each counted once; a tensor without one counts its own."""
    storages: set[Storage] = set()
    others = 0
    for tensor in tensors:
        if isinstance(tensor.chunks, View):
            storages.add(tensor.chunks.storage)
        else:
            others += tensor.nbytes
    return others + sum(storage.nbytes for storage in storages)


def rebuild(storage: Storage, element: Element, offset: Any, shape: Any, stride: Any, limits: Limits) -> LazyTensor:
    """The tensor at `offset` with `shape` and `stride`, all in elements; refused where it leaves the storage."""
    if type(offset) is not int or type(shape) is not tuple or type(stride) is not tuple or len(shape) != len(stride):
        raise Refusal("tensor-view", "a tensor whose offset, shape and strides are no integers that fit each other")
    if len(shape) > limits.rank:
        raise Refusal("tensor-rank", f"a tensor of {len(shape)} axes, above the limit of {limits.rank}")
    if not _integers(shape) or not _integers(stride):
        raise Refusal("tensor-view", "a tensor whose shape or strides are negative, or no integers")
    if math.prod(filter(None, shape)) * element.width >= _HUGE:
        raise Refusal("tensor-view", f"a tensor of shape {list(shape)}, whose size overflows")
    there = storage.nbytes // element.width
    last = sum((extent - 1) * step for extent, step in zip(shape, stride, strict=True)) if all(shape) else -1
    if not 0 <= offset <= offset + last + 1 <= there:
        raise Refusal("tensor-bounds", f"a tensor that reaches to element {offset + last} of a storage of {there}")
    elements = math.prod(shape)
    if elements > max(EXPANSION * there, FREE_ELEMENTS):
        raise Refusal("tensor-expansion", f"a tensor that makes {elements} elements out of {there} by repeating them")
    width = element.width
    whole = not elements or _contiguous(shape, stride)
    reach = elements if whole else last + 1
    view = View(storage, element, offset * width, reach * width, *(() if whole else (shape, stride)))
    return LazyTensor(element.dtype, _unpacked(shape, element.packed), view)


def _integers(value: tuple[Any, ...]) -> bool:
    return all(type(item) is int and 0 <= item < _HUGE for item in value)


def _contiguous(shape: Shape, stride: Shape) -> bool:
    """Whether the elements lie in row-major order without holes."""
    expected = 1
    for extent, step in zip(reversed(shape), reversed(stride), strict=True):
        if extent != 1 and step != expected:
            return False
        expected *= extent
    return True


def _unpacked(shape: Shape, packed: int) -> Shape:
    """The shape that safetensors gives a packed tensor: its last axis counts values, not bytes."""
    if packed == 1:
        return shape
    if not shape:
        raise Refusal("tensor-view", f"a packed tensor without axes; {packed} values lie in each byte")
    return (*shape[:-1], shape[-1] * packed)


def _gathered(pieces: Iterable[Buffer], shape: Shape, stride: Shape, width: int) -> Iterator[Buffer]:
    import numpy as np

    window = np.frombuffer(b"".join(pieces), f"V{width}")
    yield np.lib.stride_tricks.as_strided(window, shape, tuple(step * width for step in stride)).tobytes()


def _swapped(pieces: Iterable[Buffer], width: int) -> Iterator[Buffer]:
    """Every `width` bytes reversed; pieces hold whole elements."""
    for piece in pieces:
        swapped = bytearray(len(piece))
        for place in range(width):
            swapped[place::width] = piece[width - 1 - place :: width]
        yield swapped
