"""NumPy's scalars, dtypes and arrays in pickles, as numbers, elements and tensors; without NumPy.

Source: numpy `_core/src/multiarray/` (`array_setstate`, `arraydescr_setstate`), `_core/numeric.py` (`_frombuffer`).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

from adapterhub.files.limits import Limits
from adapterhub.files.pickles.state import Refusal, shown
from adapterhub.files.pickles.tensors import ELEMENTS, Element, Storage, rebuild
from adapterhub.tensors import LazyTensor

_CODES = {
    "b1": ("bool", "?"), "u1": ("uint8", "B"), "i1": ("int8", "b"), "i2": ("int16", "h"), "i4": ("int32", "i"),
    "i8": ("int64", "q"), "f2": ("float16", "e"), "f4": ("float32", "f"), "f8": ("float64", "d"),
    "u2": (None, "H"), "u4": (None, "I"), "u8": (None, "Q"),
}  # fmt: skip
"""Code → the element of an array, `struct`'s letter. Arrays of unsigned numbers hold no weights: until torch 2.3 none
could become a tensor; states of random number generators are such arrays.
"""


@dataclass(slots=True, eq=False)
class NumpyType:
    """`numpy.dtype(code)`, and its byte order once that is told."""

    code: str
    big_endian: bool = False

    @property
    def format(self) -> str:
        return (">" if self.big_endian else "<") + _CODES[self.code][1]

    def build(self, state: Any) -> None:
        """`(3, order, None, None, None, -1, -1, 0)`: version, byte order, nothing structured."""
        if type(state) is not tuple or len(state) not in (8, 9) or state[1] not in ("<", ">", "|", "="):
            raise Refusal("numpy-dtype", "the state of a numpy.dtype that is no plain number")
        if any(part is not None for part in state[2:5]):
            raise Refusal("numpy-dtype", "the state of a numpy.dtype that has fields or a shape")
        self.big_endian = state[1] == ">"


@dataclass(slots=True, eq=False)
class NumpyArray:
    """An array that `numpy.core.multiarray._reconstruct` made empty; its state fills it."""

    limits: Limits
    tensor: LazyTensor | None = None

    def build(self, state: Any) -> None:
        """`(1, shape, dtype, whether column-major, bytes)`."""
        if type(state) is not tuple or len(state) != 5 or self.tensor is not None:
            raise Refusal(
                "numpy-array", "the state of an array of numpy.core.multiarray._reconstruct is not like NumPy's"
            )
        _, shape, kind, by_column, content = state
        self.tensor = array(content, kind, shape, by_column, self.limits)


def numpy_type(code: Any) -> NumpyType:
    """`numpy.dtype("f4")`."""
    if type(code) is not str or len(code) > 3 or code.lstrip("<>|=") not in _CODES:
        raise Refusal("numpy-dtype", f"numpy.dtype of {shown(code)}, which is no plain number")
    return NumpyType(code.lstrip("<>|="), code[:1] == ">")


def scalar(kind: Any, content: Any) -> float:
    """`numpy.core.multiarray.scalar(dtype, bytes)`: the number."""
    if not isinstance(kind, NumpyType) or type(content) is not bytes or len(content) != struct.calcsize(kind.format):
        raise Refusal("numpy-scalar", "numpy.core.multiarray.scalar of other than a plain number and its bytes")
    number: float = struct.unpack(kind.format, content)[0]
    return number


def array(content: Any, kind: Any, shape: Any, by_column: Any, limits: Limits) -> LazyTensor:
    """The tensor over the bytes of an array."""
    if not isinstance(kind, NumpyType) or type(content) is not bytes or type(by_column) is not bool:
        raise Refusal("numpy-array", "an array of numpy.core.multiarray._reconstruct of other than numbers in bytes")
    name = _CODES[kind.code][0]
    if name is None:
        message = f"numpy.core.multiarray._reconstruct of {kind.code!r}: an array of unsigned numbers holds no weights"
        raise Refusal("numpy-array", message)
    element = ELEMENTS[name]
    if type(shape) is not tuple or len(shape) > limits.rank:
        raise Refusal("numpy-array", "an array with too many axes")
    storage = _storage(content, element, kind.big_endian)
    tensor = rebuild(storage, element, 0, shape, _strides(shape, by_column), limits)
    if tensor.nbytes != len(content):
        raise Refusal("numpy-array", f"an array of shape {list(shape)} in {len(content)} bytes")
    return tensor


def _storage(content: bytes, element: Element, big_endian: bool) -> Storage:
    storage = Storage(element, "", "cpu", len(content) // element.width, big_endian)
    storage.read = lambda start, length: (content[start : start + length],)
    return storage


def _strides(shape: tuple[Any, ...], by_column: bool) -> tuple[int, ...]:
    if not all(type(extent) is int and 0 <= extent < 1 << 63 for extent in shape):
        raise Refusal("numpy-array", "an array whose shape is no integers from 0 on")
    axes = range(len(shape))
    return tuple(math.prod(shape[:axis] if by_column else shape[axis + 1 :]) for axis in axes)
