"""Folding alpha into a factor."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapterhub.adapter import Role
from adapterhub.errors import BrokenAdapter
from adapterhub.operations.lora.deltas import change, tensor
from adapterhub.operations.lora.fold import fold
from adapterhub.tensors import from_bytes, item, scalar, values

R = Role
RANDOM = np.random.default_rng(20240229)
NUMPY = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}


def held(array, dtype="F16"):
    array = np.ascontiguousarray(array, NUMPY[dtype])
    return from_bytes(dtype, array.shape, array.tobytes())


def module(shapes, dtype="F16"):
    return {role: held(RANDOM.standard_normal(shape), dtype) for role, shape in shapes.items()}


def lora(dtype="F16", alpha=1.0, **more):
    return module({R.DOWN: (4, 6), R.UP: (8, 4)}, dtype) | {R.ALPHA: scalar(alpha)} | more


@pytest.mark.parametrize("alpha", [None, 4.0])
def test_a_scale_of_one_leaves_the_very_same_tensors(alpha):
    tensors = lora(alpha=alpha) if alpha else module({R.DOWN: (4, 6), R.UP: (8, 4)})
    folded, exact = fold(tensors)
    assert exact
    assert folded == {R.DOWN: tensors[R.DOWN], R.UP: tensors[R.UP]}


def test_a_scale_of_one_does_not_import_torch():
    program = """
import sys
from adapterhub.adapter import Role
from adapterhub.operations.lora.fold import fold
from adapterhub.tensors import from_bytes, scalar
down, up = (from_bytes("F16", shape, bytes(16)) for shape in ((4, 2), (2, 4)))
fold({Role.DOWN: down, Role.UP: up, Role.ALPHA: scalar(4.0)})
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("alpha", [1.0, 2.0, 8.0, 64.0, -2.0, 0.0])
def test_a_power_of_two_goes_into_up_bit_for_bit(alpha):
    tensors = lora(alpha=alpha)
    folded, exact = fold(tensors)
    assert exact
    assert folded.keys() == {R.DOWN, R.UP}
    assert folded[R.DOWN] is tensors[R.DOWN]
    assert folded[R.UP].dtype == "F16"
    assert np.array_equal(values(folded[R.UP]), values(tensors[R.UP]) * np.float16(alpha / 4))


def test_a_factor_that_would_sink_below_the_smallest_number_is_passed_over():
    tensors = {R.DOWN: held(np.ones((4, 6))), R.UP: held(np.full((8, 4), 2.0**-24)), R.ALPHA: scalar(1.0)}
    folded, exact = fold(tensors)
    assert exact
    assert folded[R.UP] is tensors[R.UP]
    assert np.array_equal(values(folded[R.DOWN]), np.full((4, 6), 0.25))


def test_a_factor_that_would_overflow_is_passed_over():
    tensors = {R.DOWN: held(np.ones((4, 6))), R.UP: held(np.full((8, 4), 60000.0)), R.ALPHA: scalar(16.0)}
    folded, exact = fold(tensors)
    assert exact
    assert np.array_equal(values(folded[R.DOWN]), np.full((4, 6), 4.0))


def test_where_no_factor_stays_exact_the_one_that_loses_least_is_taken():
    few_digits = np.full((4, 6), 3.0)  # thirds of it are whole
    tensors = {R.DOWN: held(few_digits), R.UP: held(RANDOM.standard_normal((8, 4))), R.SCALE: scalar(1 / 3, "F64")}
    folded, exact = fold(tensors)
    assert not exact  # 1/3 is not what float64 holds for it
    assert folded[R.UP] is tensors[R.UP]
    assert np.array_equal(values(folded[R.DOWN]), np.ones((4, 6)))


def test_a_scale_that_happens_to_suit_the_values_is_exact_though_no_power_of_two():
    tensors = {R.DOWN: held(np.full((3, 6), 6.0)), R.UP: held(RANDOM.standard_normal((8, 3))), R.ALPHA: scalar(2.0)}
    folded, exact = fold(tensors)
    assert exact
    assert np.array_equal(values(folded[R.DOWN]), np.full((3, 6), 4.0))


@pytest.mark.parametrize("dtype", ["F16", "F32", "F64"])
def test_any_other_scale_is_rounded_once_and_said_to_be(dtype):
    tensors = lora(dtype, alpha=3.3)
    folded, exact = fold(tensors)
    assert not exact
    scale = item(tensors[R.ALPHA]) / 4
    (chosen,) = (role for role in (R.UP, R.DOWN) if folded[role] is not tensors[role])
    expected = (values(tensors[chosen]).astype("<f8") * scale).astype(NUMPY[dtype])
    assert np.array_equal(values(folded[chosen]), expected)


@given(st.integers(-6, 6), st.lists(st.floats(width=16, allow_nan=False, allow_infinity=False), min_size=4, max_size=4))
def test_what_is_said_to_be_exact_is_and_what_is_not_could_not_be(exponent, numbers):
    down, up = np.reshape(numbers[:2], (1, 2)), np.reshape(numbers[2:], (2, 1))
    tensors = {R.DOWN: held(down), R.UP: held(up), R.ALPHA: scalar(2.0**exponent)}
    folded, exact = fold(tensors)
    with np.errstate(over="ignore"):
        possible = [np.array_equal((side * 2.0**exponent).astype("<f2"), side * 2.0**exponent) for side in (down, up)]
    assert exact == any(possible)
    if exact:
        assert change(folded, None).tolist() == change(tensors, None).tolist()


def test_a_scalar_and_a_stored_scale_are_folded_with_it():
    tensors = lora(alpha=99.0, **{R.SCALE: scalar(0.5), R.SCALAR: scalar(4.0)})
    folded, exact = fold(tensors)
    assert exact
    assert folded.keys() == {R.DOWN, R.UP}
    assert np.array_equal(values(folded[R.UP]), 2 * values(tensors[R.UP]))


def test_the_bias_of_up_and_a_dense_residual_are_scaled_and_a_sparse_one_is_not():
    more = module({R.UP_BIAS: (8,), R.RESIDUAL: (8, 6), R.RESIDUAL_VALUES: (1,), R.DIFF_B: (8,)})
    indices = from_bytes("I16", (2, 1), np.array([[1], [2]], "<i2").tobytes())
    tensors = lora(**more) | {R.RESIDUAL_INDICES: indices}
    folded, exact = fold(tensors)
    assert exact
    for role in (R.UP, R.UP_BIAS, R.RESIDUAL):
        assert np.array_equal(values(folded[role]), values(tensors[role]) / 4)
    for role in (R.DOWN, R.DIFF_B, R.RESIDUAL_VALUES, R.RESIDUAL_INDICES):
        assert folded[role] is tensors[role]
    assert change(folded, None).tolist() == change(tensors, None).tolist()


@pytest.mark.parametrize(
    "shapes",
    [
        {R.HADA_W1_A: (8, 4), R.HADA_W1_B: (4, 6), R.HADA_W2_A: (8, 4), R.HADA_W2_B: (4, 6)},
        {R.LOKR_W1: (2, 3), R.LOKR_W2_A: (4, 4), R.LOKR_W2_B: (4, 2)},
        {R.DOWN: (4, 6, 1, 1), R.MID: (4, 4, 3, 3), R.UP: (8, 4, 1, 1)},
        {R.LOKR_W1: (2, 3), R.LOKR_W2: (4, 2)},
    ],
)
def test_every_product_keeps_its_change_bit_for_bit(shapes):
    tensors = module(shapes) | {R.ALPHA: scalar(2.0)}
    folded, exact = fold(tensors)
    assert exact
    assert R.ALPHA not in folded
    assert change(folded, None).tolist() == change(tensors, None).tolist()


def test_both_products_of_a_glora_are_scaled():
    tensors = module({R.GLORA_A1: (6, 4), R.GLORA_A2: (4, 6), R.GLORA_B1: (8, 4), R.GLORA_B2: (4, 6)})
    weight = tensor(held(RANDOM.standard_normal((8, 6))))
    folded, exact = fold(tensors | {R.ALPHA: scalar(2.0)})
    assert exact
    assert change(folded, weight).tolist() == change(tensors | {R.ALPHA: scalar(2.0)}, weight).tolist()
    assert change(folded, weight).tolist() != change(tensors, weight).tolist()


def test_an_alpha_that_bounds_a_norm_stays_and_one_that_does_nothing_goes():
    oft = module({R.OFT_BLOCKS: (2, 4, 4)}) | {R.ALPHA: scalar(1e-3)}
    full = module({R.DIFF: (8, 6)})
    assert fold(oft) == (oft, True)
    assert fold(full | {R.ALPHA: scalar(1e-3)}) == (full, True)


def test_values_that_are_not_finite_stay_so_and_do_not_count_as_rounding():
    tensors = {R.DOWN: held(np.ones((4, 2))), R.UP: held([[np.inf, np.nan, 1, -np.inf]]), R.ALPHA: scalar(2.0)}
    folded, exact = fold(tensors)
    assert exact
    assert np.array_equal(values(folded[R.UP]), np.array([[np.inf, np.nan, 0.5, -np.inf]]), equal_nan=True)


@pytest.mark.parametrize("alpha", [np.nan, np.inf])
def test_a_scale_that_is_not_finite_is_refused(alpha):
    with pytest.raises(BrokenAdapter, match="cannot be folded"):
        fold(lora(alpha=alpha))


def test_half_a_module_is_refused():
    with pytest.raises(BrokenAdapter, match="lora_up"):
        fold(module({R.DOWN: (4, 6)}) | {R.ALPHA: scalar(1.0)})
