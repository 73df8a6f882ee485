"""float64 rounded once to what a model stores, as the bits that are stored: half to even, or by chance."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from adapterhub.operations.casting import rounded
from adapterhub.operations.merge.scratch import scratch
from adapterhub.tensors import from_bytes, values

if TYPE_CHECKING:
    import numpy as np

CODES = {"F8_E4M3": "u1", "F8_E5M2": "u1", "F16": "<u2", "BF16": "<u2", "F32": "<u4", "F64": "<u8"}
"""dtype → the unsigned type of its bits."""
INFINITE = {"F8_E4M3": 0x7F, "F8_E5M2": 0x7C, "F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F80_0000,
            "F64": 0x7FF0_0000_0000_0000}  # fmt: skip
"""dtype → the magnitude from which on a value is infinite or none at all."""
_TO_HALF = 2.0**-112
"""Moves float32's exponents onto those of float16, its subnormal numbers included."""
_LARGEST_HALF = 65504 * _TO_HALF
_HALF_SIGN_AND_DIGITS = 0x8FFF_E000
"""Where the bits of a float16 lie in a float32 so moved."""


def nearest(found: np.ndarray, dtype: str, out: np.ndarray | None = None) -> np.ndarray:
    """The bits of float64 numbers in `dtype`, each the nearest there is, in `out` if given; what is too large becomes infinite,
    in E4M3 NaN.
    """
    import numpy as np

    codes = np.empty(found.shape, CODES[dtype]) if out is None else out
    numbers, bits = found.reshape(-1), codes.reshape(-1)
    match dtype:
        case "F16":
            _half(numbers, bits)
        case "BF16":
            _brain(numbers, bits)
        case "F32":
            bits[:] = rounded(numbers, dtype).view("<u4")
        case "F64":
            bits[:] = numbers.view("<u8")
        case _:
            bits[:] = _eighth(numbers, dtype)
    return codes


def decoded(codes: np.ndarray, dtype: str, out: np.ndarray | None = None) -> np.ndarray:
    """The numbers behind bits, in float64, in `out` if given."""
    import numpy as np

    numbers = np.empty(codes.shape, "<f8") if out is None else out
    bits = scratch("bits", codes.shape, "<u4")
    match dtype:
        case "F16" if not_finite(codes, dtype) is None:
            np.copyto(bits.view("<i4"), codes.view("<i2"))  # the sign in every bit above
            bits <<= 13
            bits &= _HALF_SIGN_AND_DIGITS
            np.copyto(numbers, bits.view("<f4"))
            numbers *= 1 / _TO_HALF
        case "BF16":
            np.copyto(bits, codes)
            bits <<= 16
            np.copyto(numbers, bits.view("<f4"))
        case _:
            numbers[...] = values(from_bytes(dtype, codes.shape, codes.reshape(-1).view("u1").data))
    return numbers


def stochastic(
    found: np.ndarray, dtype: str, generator: np.random.Generator, out: np.ndarray | None = None
) -> np.ndarray:
    """The bits of one of the two neighbours, the nearer one with the greater chance, so that the mean is the number itself."""
    import numpy as np

    codes = nearest(found, dtype, out)
    near = decoded(codes, dtype)
    sign = codes.dtype.type(1 << (8 * codes.dtype.itemsize - 1))
    away = np.abs(found) > np.abs(near)
    magnitude = codes & ~sign
    other = np.where(away, magnitude + 1, np.maximum(magnitude, 1) - 1).astype(codes.dtype) | (codes & sign)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        chance = np.abs(found - near) / np.abs(decoded(other, dtype) - near)
    np.copyto(codes, other, where=generator.random(found.shape) < chance)
    return codes


def not_finite(codes: np.ndarray, dtype: str) -> np.ndarray | None:
    """Where numbers are infinite or none; None where all are finite."""
    import numpy as np

    ends = INFINITE[dtype]
    magnitude = scratch("magnitude", codes.shape, CODES[dtype])
    np.bitwise_and(codes, (1 << (8 * codes.dtype.itemsize - 1)) - 1, out=magnitude)
    return magnitude >= ends if int(magnitude.max(initial=0)) >= ends else None


def _half(found: np.ndarray, codes: np.ndarray) -> None:
    """By way of float32, whose exponents are moved to be those of float16; four times as fast as numpy's own cast."""
    import numpy as np

    scaled = np.multiply(found, _TO_HALF, out=scratch("scaled", found.shape, "<f8"))
    narrow = _narrowed(scaled)
    if (
        not -_LARGEST_HALF <= narrow.min(initial=0) <= narrow.max(initial=0) <= _LARGEST_HALF
    ):  # nor if one is none at all
        codes[...] = rounded(found, "F16").view("<u2")
        return
    _cut(narrow.view("<u4"), 13, found, "F16", codes)


def _brain(found: np.ndarray, codes: np.ndarray) -> None:
    """By way of float32, of which bfloat16 is the upper half."""
    bits = _narrowed(found).view("<u4")
    if not_finite(bits, "F32") is not None:
        codes[...] = rounded(found, "BF16")
        return
    _cut(bits, 16, found, "BF16", codes)


def _narrowed(found: np.ndarray) -> np.ndarray:
    """The numbers in float32."""
    import numpy as np

    narrow = scratch("narrow", found.shape, "<f4")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        np.copyto(narrow, found, casting="unsafe")
    return narrow


def _cut(bits: np.ndarray, count: int, found: np.ndarray, dtype: str, codes: np.ndarray) -> None:
    """Float32 without its last `count` bits, half to even. A number in the middle between two, to which float32 itself may have
    been rounded, is asked again.
    """
    import numpy as np

    kept, sign = (scratch(name, bits.shape, "<u4") for name in ("kept", "sign"))
    np.right_shift(bits, count, out=kept)
    kept &= 1
    kept += (1 << count - 1) - 1
    kept += bits
    kept >>= count
    if count < 16:  # the sign stayed above
        kept |= np.bitwise_and(np.right_shift(bits, 16, out=sign), 0x8000, out=sign)
    np.copyto(codes, kept, casting="unsafe")
    np.bitwise_and(bits, (1 << count) - 1, out=kept)
    middles = np.equal(kept, 1 << count - 1, out=scratch("middles", bits.shape, "?"))
    if middles.any():
        asked = np.flatnonzero(middles)
        codes[asked] = rounded(found[asked], dtype).view("<u2")


def _eighth(found: np.ndarray, dtype: str) -> np.ndarray:
    import numpy as np

    codes = np.searchsorted(_thresholds(dtype), np.abs(found), side="right").astype("u1")
    codes[np.isnan(found)] = 0x7F
    signed: np.ndarray = codes | (np.signbit(found).astype("u1") << 7)
    return signed


@cache
def _thresholds(dtype: str) -> np.ndarray:
    """The least magnitude that becomes each code but 0; in the middle the even code wins."""
    import numpy as np

    ends = INFINITE[dtype]
    sizes = decoded(np.arange(ends, dtype="u1"), dtype)
    sizes = np.append(sizes, 2 * sizes[-1] - sizes[-2])  # what would follow, if there were no end
    middles = (sizes[:-1] + sizes[1:]) / 2
    odd = np.arange(1, ends + 1) % 2 == 1
    found: np.ndarray = np.where(odd, np.nextafter(middles, np.inf), middles)
    return found
