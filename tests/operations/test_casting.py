"""Casts between float16 and float32 give what torch gives, for every float16, and for float32 numbers of any bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adapterhub.operations.casting import rounded


def test_every_half_is_the_same_number_in_float32() -> None:
    halves = np.arange(1 << 16, dtype="<u2").view("<f2")
    ours, theirs = rounded(halves, "F32"), torch.from_numpy(halves.copy()).float().numpy()
    number = ~np.isnan(theirs)
    assert np.array_equal(ours.view("u4")[number], theirs.view("u4")[number])
    assert np.isnan(ours[~number]).all()


def test_floats_of_any_bits_become_the_nearest_half() -> None:
    floats = np.random.default_rng(0).integers(0, 1 << 32, 1 << 20, dtype=np.uint32).view("<f4")
    halves = np.arange(0x7C00, dtype="<u2").view("<f2").astype("<f4")
    middles = (halves[:-1] + halves[1:]) / 2
    near = [np.nextafter(middles, np.float32(towards)) for towards in (np.inf, 0)]
    floats = np.concatenate([floats, middles, *near, -middles])
    ours, theirs = rounded(floats, "F16"), torch.from_numpy(floats).half().numpy()
    number = ~np.isnan(floats)
    assert np.array_equal(ours.view("u2")[number], theirs.view("u2")[number])
    assert np.isnan(ours[~number]).all()


@pytest.mark.parametrize("shape", [(), (0, 3), (3, 4)])
def test_a_cast_keeps_the_shape(shape: tuple[int, ...]) -> None:
    assert rounded(np.ones(shape, "<f4").T, "F16").shape == shape[::-1]
