"""Rounding is to the nearest, the middle to the even, for every number that a dtype has; by chance it is right in the mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adapterhub.operations.merge import rounding

KINDS = {
    "F16": (torch.float16, torch.int16), "BF16": (torch.bfloat16, torch.int16),
    "F8_E4M3": (torch.float8_e4m3fn, torch.uint8), "F8_E5M2": (torch.float8_e5m2, torch.uint8),
}  # fmt: skip


def sizes(dtype: str) -> np.ndarray:
    """All finite magnitudes in ascending order, as torch reads them; the code of each is its index."""
    kind, bits = KINDS[dtype]
    codes = np.arange(rounding.INFINITE[dtype])
    return torch.from_numpy(codes).to(bits).view(kind).double().numpy()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", KINDS)
def test_every_number_middle_and_neighbour_of_a_middle(dtype: str, sign: int) -> None:
    found = sizes(dtype)
    codes = np.arange(found.size)
    negative = 0 if sign > 0 else 1 << (8 * np.dtype(rounding.CODES[dtype]).itemsize - 1)
    middles = (found[:-1] + found[1:]) / 2
    even = codes[:-1] + codes[:-1] % 2
    for numbers, wanted in (
        (found, codes), (middles, even),
        (np.nextafter(middles, np.inf), codes[1:]), (np.nextafter(middles, 0), codes[:-1]),
    ):  # fmt: skip
        assert np.array_equal(rounding.nearest(sign * numbers, dtype), wanted | negative)


@pytest.mark.parametrize("dtype", KINDS)
def test_what_is_too_large_is_infinite_and_nan_stays_one(dtype: str) -> None:
    largest = sizes(dtype)[-1]
    step = largest - sizes(dtype)[-2]
    codes = rounding.nearest(np.array([largest + 0.49 * step, largest + 0.51 * step, np.inf, -np.inf, np.nan]), dtype)
    broken = rounding.not_finite(codes, dtype)
    assert broken is not None
    assert broken.tolist() == [False, True, True, True, True]
    assert rounding.not_finite(rounding.nearest(np.array([largest]), dtype), dtype) is None


def test_float32_and_float64_are_those_of_numpy() -> None:
    numbers = np.random.default_rng(0).standard_normal(1000) * 1e-3
    assert np.array_equal(rounding.nearest(numbers, "F32").view("f4"), numbers.astype("f4"))
    assert np.array_equal(rounding.nearest(numbers, "F64").view("f8"), numbers)


@pytest.mark.parametrize("dtype", [*KINDS, "F32"])
def test_by_chance_it_is_one_of_the_neighbours_and_right_in_the_mean(dtype: str) -> None:
    numbers = np.array([0.3, -0.3, 1.7, -1e-3, 0.0, 0.5])
    draws = np.repeat(numbers[None], 20_000, 0)
    found = rounding.decoded(rounding.stochastic(draws, dtype, np.random.default_rng(1)), dtype)
    near = rounding.decoded(rounding.nearest(numbers, dtype), dtype)
    spread = found.max(0) - found.min(0)
    assert all(len(set(column)) <= 2 for column in found.T)
    assert (spread[-2:] == 0).all()
    assert np.array_equal(near[-2:], [0.0, 0.5])
    assert (np.abs(found.mean(0) - numbers) <= 0.02 * spread + 1e-18).all()


@pytest.mark.parametrize("dtype", KINDS)
def test_every_code_is_decoded_exactly_and_comes_back(dtype: str) -> None:
    kind, bits = KINDS[dtype]
    whole = rounding.CODES[dtype]
    codes = np.arange(1 << (8 * np.dtype(whole).itemsize)).astype(whole)
    wanted = torch.from_numpy(codes.astype("i8")).to(bits).view(kind).double().numpy()
    found = rounding.decoded(codes, dtype)
    assert np.array_equal(found, wanted, equal_nan=True)
    assert np.array_equal(np.signbit(found), np.signbit(wanted)) or dtype.startswith("F8")
    numbers = ~np.isnan(wanted)
    assert np.array_equal(rounding.nearest(found[numbers], dtype), codes[numbers])


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_near_the_middle_of_two_float32_is_asked_and_not_rounded_twice(dtype: str) -> None:
    rng = np.random.default_rng(0)
    found = sizes(dtype)[:-1] if dtype == "BF16" else sizes(dtype)
    middles = (found[:-1] + found[1:]) / 2
    for exponent in (-52, -45, -40, -30):
        numbers = middles * (1 + rng.choice([-1, 1], middles.size) * 2.0**exponent)
        codes = np.arange(middles.size)
        wanted = np.where(numbers > middles, codes + 1, codes)
        assert np.array_equal(rounding.nearest(numbers, dtype), wanted)
