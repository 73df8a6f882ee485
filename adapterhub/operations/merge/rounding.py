"""float64 rounded once to what a model stores, as the bits that are stored: half to even, or by chance."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from adapterhub.operations.casting import rounded
from adapterhub.operations.merge.scratch import scratch
from adapterhub.tensors import from_bytes, largest_code, values

if TYPE_CHECKING:
    import numpy as np

CODES = {"F8_E4M3": "u1", "F8_E5M2": "u1", "F16": "<u2", "BF16": "<u2", "F32": "<u4", "F64": "<u8"}
"""dtype → the unsigned type of its bits."""
INFINITE = {"F8_E4M3": 0x7F, "F8_E5M2": 0x7C, "F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F80_0000,
            "F64": 0x7FF0_0000_0000_0000}  # fmt: skip
"""dtype → the magnitude from which on a value is infinite or none at all."""


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
    match dtype:
        case "F16":
            from numkong import astype

            narrow = scratch("narrow", codes.shape, "<f4")
            astype(codes.view("<f2"), "float32", out=narrow)
            np.copyto(numbers, narrow)
        case "BF16":
            bits = scratch("bits", codes.shape, "<u4")
            np.copyto(bits, codes)
            bits <<= 16
            with np.errstate(invalid="ignore"):
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
    ends = INFINITE[dtype]
    if largest_code(codes) < ends:
        return None
    found: np.ndarray = (codes & ((1 << (8 * codes.dtype.itemsize - 1)) - 1)) >= ends
    return found


def _half(found: np.ndarray, codes: np.ndarray) -> None:
    """By way of float32, with the processor's own instructions, which numpy's casts of float16 lack. Rounding twice goes wrong only
    where float32 is the middle between two: such a number has at most 12 binary digits, and what has no more is asked anew.
    """
    import numpy as np
    from numkong import astype

    narrow, halves = scratch("narrow", found.shape, "<f4"), codes.view("<f2")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        np.copyto(narrow, found, casting="unsafe")
        astype(narrow, "float16", out=halves)
        digits = np.bitwise_and(narrow.view("<u4"), 0xFFF, out=scratch("kept", found.shape, "<u4"))
        again = np.equal(digits, 0, out=scratch("asked", found.shape, "?")).nonzero()[0]
        if again.size > found.size // 8:  # a change of nothing: casting all is faster than picking
            halves[:] = found
        else:
            halves[again] = found[again]


def _brain(found: np.ndarray, codes: np.ndarray) -> None:
    """By way of float32, of which bfloat16 is the upper half; what that may have rounded to the middle between two is asked anew."""
    import numpy as np

    narrow = scratch("narrow", found.shape, "<f4")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        np.copyto(narrow, found, casting="unsafe")
    bits = narrow.view("<u4")
    if not_finite(bits, "F32") is not None:
        codes[...] = rounded(found, "BF16")
        return
    kept = scratch("kept", bits.shape, "<u4")
    np.right_shift(bits, 16, out=kept)
    kept &= 1
    kept += 0x7FFF
    kept += bits
    kept >>= 16
    np.copyto(codes, kept, casting="unsafe")
    asked = np.flatnonzero(np.bitwise_and(bits, 0xFFFF, out=kept) == 0x8000)
    codes[asked] = rounded(found[asked], "BF16")


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
