"""LazyTensor: dtype and shape now, bytes on demand. Everything here is exact on bytes, for every dtype, without torch.

Dtypes carry the names of safetensors (its `Dtype` enum, 0.8); torch's complex128, which it lacks, is C128. Bytes are
little-endian and row-major.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Buffer = bytes | bytearray | memoryview
Chunks = Callable[[], Iterable[Buffer]]
Shape = tuple[int, ...]

# Bits per element, in safetensors' own order: its writer sorts tensors by this order descending, then by name.
DTYPE_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
_BITS = {**DTYPE_BITS, "C128": 128}
FLOATS = frozenset({"F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2"})
"""Dtypes whose values adapterhub computes with; every other one is only ever moved as bytes."""

_SCALARS = {
    dtype: struct.Struct(code)
    for dtype, code in {
        "F16": "<e", "F32": "<f", "F64": "<d", "I8": "<b", "U8": "<B", "BOOL": "<?", "I16": "<h", "U16": "<H",
        "I32": "<i", "U32": "<I", "I64": "<q", "U64": "<Q",
    }.items()
}  # fmt: skip
_NUMPY = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I8": "i1", "U8": "u1", "BOOL": "?", "I16": "<i2", "U16": "<u2",
          "I32": "<i4", "U32": "<u4", "I64": "<i8", "U64": "<u8"}  # fmt: skip
_COPY_BYTES = 1 << 22


def length(dtype: str, shape: Shape) -> int:
    """The bytes that a tensor of `dtype` and `shape` takes. ValueError where a packed dtype ends inside a byte."""
    bits = math.prod(shape) * _BITS[dtype]
    if bits % 8:
        raise ValueError(f"{dtype} of shape {list(shape)} ends inside a byte")
    return bits // 8


@dataclass(slots=True, eq=False)
class LazyTensor:
    """A tensor that is not there yet: `chunks()` yields its bytes in order and may be called again.

    Not to be changed; it is not frozen because a file has thousands of them, and freezing triples the time to make one.
    """

    dtype: str
    shape: Shape
    chunks: Callable[[], Iterable[Buffer]]

    @property
    def nbytes(self) -> int:
        return length(self.dtype, self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def read(self) -> bytes:
        """All bytes at once."""
        return b"".join(self.chunks())  # of one piece of bytes that is the piece itself

    def reshape(self, *shape: int) -> LazyTensor:
        """The same bytes under another shape."""
        if math.prod(shape) != self.size:
            raise ValueError(f"{list(self.shape)} does not reshape to {list(shape)}")
        return self if shape == self.shape else LazyTensor(self.dtype, shape, self.chunks)

    def transpose(self) -> LazyTensor:
        """Rows for columns of a 2-D tensor of whole bytes."""
        rows, columns = self.shape
        width = _BITS[self.dtype] // 8
        if _BITS[self.dtype] % 8:
            raise ValueError(f"{self.dtype} is packed and cannot be transposed")

        def chunks() -> Iterator[Buffer]:
            import numpy as np

            yield np.frombuffer(self.read(), f"V{width}").reshape(rows, columns).T.tobytes()

        return LazyTensor(self.dtype, (columns, rows), chunks)

    def split_rows(self, sizes: Sequence[int]) -> list[LazyTensor]:
        """Consecutive parts along the first axis, `sizes` rows each."""
        if sum(sizes) != self.shape[0]:
            raise ValueError(f"{list(sizes)} rows do not make up {self.shape[0]}")
        row = length(self.dtype, self.shape[1:])
        window = getattr(self.chunks, "part", partial(_window, self))  # a run of bytes in a file stays one
        parts, start = [], 0
        for rows in sizes:
            parts.append(LazyTensor(self.dtype, (rows, *self.shape[1:]), window(start * row, rows * row)))
            start += rows
        return parts


def stack_rows(tensors: Sequence[LazyTensor]) -> LazyTensor:
    """One tensor of all rows, in order; dtypes and the other axes must agree."""
    first = tensors[0]
    if any(t.dtype != first.dtype or t.shape[1:] != first.shape[1:] for t in tensors):
        raise ValueError("only tensors of one dtype and row shape can be stacked")
    rows = sum(t.shape[0] for t in tensors)

    def chunks() -> Iterator[Buffer]:
        for tensor in tensors:
            yield from tensor.chunks()

    return LazyTensor(first.dtype, (rows, *first.shape[1:]), chunks)


def from_bytes(dtype: str, shape: Shape, data: Buffer) -> LazyTensor:
    """A tensor over bytes that are there already."""
    if len(data) != length(dtype, shape):
        raise ValueError(f"{len(data)} bytes for {dtype} {list(shape)}")
    return LazyTensor(dtype, shape, lambda: (data,))


def scalar(value: float, dtype: str = "F32") -> LazyTensor:
    """A 0-d tensor holding `value`, rounded to `dtype`."""
    if dtype == "BF16":
        return from_bytes(dtype, (), _bf16(value))
    return from_bytes(dtype, (), _SCALARS[dtype].pack(value if dtype.startswith("F") else int(value)))


def item(tensor: LazyTensor) -> float:
    """The value of a tensor of one element, whatever its shape and dtype."""
    if tensor.shape and tensor.size != 1:
        raise ValueError(f"a tensor of shape {list(tensor.shape)} is no scalar")
    return number(tensor.dtype, tensor.read())


@lru_cache(maxsize=1024)
def number(dtype: str, data: bytes) -> float:
    """The number that the bytes of one element are."""
    if dtype == "BF16":
        return float(struct.unpack("<f", b"\0\0" + data)[0])
    if dtype in _SCALARS:
        return float(_SCALARS[dtype].unpack(data)[0])
    return float(values(from_bytes(dtype, (), data)))


def holds(dtype: str, value: float) -> bool:
    """Whether `dtype` represents `value` exactly."""
    try:
        return item(scalar(value, dtype)) == value
    except (KeyError, OverflowError, struct.error):
        return False


def values(tensor: LazyTensor) -> np.ndarray:
    """The values as numpy: F16, F32, F64 and integers as themselves, BF16 and F8 widened to float32, exactly."""
    import numpy as np

    data = tensor.read()
    if tensor.dtype in _NUMPY:
        return np.frombuffer(data, _NUMPY[tensor.dtype]).reshape(tensor.shape)
    if tensor.dtype == "BF16":
        widened: np.ndarray = np.frombuffer(data, "<u2").astype("<u4") << 16
        return widened.view("<f4").reshape(tensor.shape)
    if tensor.dtype in ("F8_E4M3", "F8_E5M2"):
        table = np.array([_f8(code, tensor.dtype) for code in range(256)], "<f4")
        return np.take(table, np.frombuffer(data, "u1")).reshape(tensor.shape)
    raise ValueError(f"{tensor.dtype} is only moved, never computed with")


def largest_code(codes: np.ndarray) -> int:
    """The largest magnitude among the bits of floats, without their sign: as integers they are in the order of the numbers."""
    size = codes.dtype.itemsize
    return max(int(codes.view(f"<i{size}").max(initial=0)), int(codes.max(initial=0)) - (1 << (8 * size - 1)))


def recast(found: np.ndarray, name: Literal["float16", "float32"]) -> np.ndarray:
    """Between float16 and float32: what numpy's cast gives, by the processor's own instructions, twenty times as fast."""
    import numpy as np
    from numkong import astype

    made = np.empty(found.shape, name)
    if found.size:
        astype(np.ascontiguousarray(found).reshape(-1), name, out=made.reshape(-1))
    return made


def ratio(alpha: float, rank: int) -> Fraction:
    """alpha / rank, exactly."""
    return Fraction(alpha) / rank


def _window(tensor: LazyTensor, start: int, size: int) -> Callable[[], Iterator[Buffer]]:
    def chunks() -> Iterator[Buffer]:
        skip, left = start, size
        for chunk in tensor.chunks():
            if skip >= len(chunk):
                skip -= len(chunk)
                continue
            part = memoryview(chunk)[skip : skip + left]
            skip = 0
            left -= len(part)
            yield part
            if not left:
                return

    return chunks


def _bf16(value: float) -> bytes:
    bits: int = struct.unpack("<I", struct.pack("<f", value))[0]
    if math.isfinite(value):
        bits += 0x7FFF + ((bits >> 16) & 1)  # round half to even
    return struct.pack("<H", bits >> 16)


def _f8(code: int, dtype: str) -> float:
    """One float8 value by the OCP 8-bit floating point specification 1.0 (E4M3 has no infinities)."""
    mantissa_bits, bias = (3, 7) if dtype == "F8_E4M3" else (2, 15)
    sign = -1.0 if code & 0x80 else 1.0
    exponent, mantissa = (code & 0x7F) >> mantissa_bits, code & ((1 << mantissa_bits) - 1)
    if dtype == "F8_E4M3" and code & 0x7F == 0x7F:
        return math.nan
    if dtype == "F8_E5M2" and exponent == 31:
        return math.nan if mantissa else sign * math.inf
    if exponent == 0:
        return sign * mantissa * 2.0 ** (1 - bias - mantissa_bits)
    return sign * (1 + mantissa / (1 << mantissa_bits)) * 2.0 ** (exponent - bias)
