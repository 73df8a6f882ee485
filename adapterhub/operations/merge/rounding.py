"""float64 rounded once to what a model stores, as the bits that are stored: half to even, or by chance."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from adapterhub.operations.casting import as_dtype
from adapterhub.tensors import from_bytes, values

if TYPE_CHECKING:
    import numpy as np

CODES = {"F8_E4M3": "u1", "F8_E5M2": "u1", "F16": "<u2", "BF16": "<u2", "F32": "<u4", "F64": "<u8"}
"""dtype → the unsigned type of its bits."""
INFINITE = {"F8_E4M3": 0x7F, "F8_E5M2": 0x7C, "F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F80_0000,
            "F64": 0x7FF0_0000_0000_0000}  # fmt: skip
"""dtype → the magnitude from which on a value is infinite or none at all."""
_TO_HALF = 2.0**-112
"""Moves float16's exponents, its subnormal numbers included, onto those of float32."""
_HALF_ENDS = 0x0F7F_F000
"""The float32 bits, so moved, from which on float16 rounds to infinity."""


def nearest(found: np.ndarray, dtype: str) -> np.ndarray:
    """The bits of float64 numbers in `dtype`, each the nearest there is; what is too large becomes infinite, in E4M3 NaN."""
    match dtype:
        case "F16":
            return _half(found)
        case "BF16":
            return _brain(found)
        case "F32" | "F64":
            return _exactly(found, dtype) if dtype == "F32" else found.view("<u8")
    return _eighth(found, dtype)


def decoded(codes: np.ndarray, dtype: str) -> np.ndarray:
    """The numbers behind bits, in float64."""
    return values(from_bytes(dtype, codes.shape, codes.reshape(-1).view("u1").data)).astype("<f8")


def stochastic(found: np.ndarray, dtype: str, generator: np.random.Generator) -> np.ndarray:
    """The bits of one of the two neighbours, the nearer one with the greater chance, so that the mean is the number itself."""
    import numpy as np

    codes = nearest(found, dtype)
    near = decoded(codes, dtype)
    sign = codes.dtype.type(1 << (8 * codes.dtype.itemsize - 1))
    away = np.abs(found) > np.abs(near)
    magnitude = codes & ~sign
    other = np.where(away, magnitude + 1, np.maximum(magnitude, 1) - 1).astype(codes.dtype) | (codes & sign)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        chance = np.abs(found - near) / np.abs(decoded(other, dtype) - near)
    return np.where(generator.random(found.shape) < chance, other, codes)


def not_finite(codes: np.ndarray, dtype: str) -> np.ndarray | None:
    """Where numbers are infinite or none; None where all are finite."""
    magnitude = codes & ((1 << (8 * codes.dtype.itemsize - 1)) - 1)
    ends = INFINITE[dtype]
    return magnitude >= ends if int(magnitude.max(initial=0)) >= ends else None


def _exactly(found: np.ndarray, dtype: str) -> np.ndarray:
    import numpy as np

    data = as_dtype(from_bytes("F64", found.shape, found.tobytes()), dtype).read()
    return np.frombuffer(data, CODES[dtype]).reshape(found.shape)


def _half(found: np.ndarray) -> np.ndarray:
    """By way of float32 and integers, three times as fast as numpy's own cast; a number in the middle between two that
    float32 may have been rounded to is asked again.
    """
    import numpy as np

    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scaled = np.empty(found.shape, "<f4")
        bits = np.multiply(found, _TO_HALF, out=scaled, casting="unsafe").view("<u4")
    sign = bits >> 16
    sign &= 0x8000
    bits &= 0x7FFF_FFFF
    if int(bits.max(initial=0)) >= _HALF_ENDS:
        return _exactly(found, "F16")
    rounded = bits >> 13
    rounded &= 1
    rounded += 0xFFF
    rounded += bits
    rounded >>= 13
    rounded |= sign
    return _with_middles(rounded.astype("<u2"), bits, 0x1FFF, found, "F16")


def _brain(found: np.ndarray) -> np.ndarray:
    import numpy as np

    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        bits = found.astype("<f4").view("<u4")
    if int((bits & 0x7FFF_FFFF).max(initial=0)) >= INFINITE["F32"]:
        return _exactly(found, "BF16")
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    return _with_middles(rounded.astype("<u2"), bits, 0xFFFF, found, "BF16")


def _with_middles(codes: np.ndarray, bits: np.ndarray, rest: int, found: np.ndarray, dtype: str) -> np.ndarray:
    import numpy as np

    middles = np.flatnonzero((bits & rest) == (rest + 1) // 2)
    if middles.size:
        codes.reshape(-1)[middles] = _exactly(found.reshape(-1)[middles], dtype)
    return codes


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
