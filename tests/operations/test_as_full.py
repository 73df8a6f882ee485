"""Any algorithm as a full difference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adapterhub.adapter import Role
from adapterhub.errors import NeedsBase
from adapterhub.operations.lora.as_full import as_full
from adapterhub.operations.lora.deltas import tensor
from adapterhub.tensors import from_bytes, scalar

R = Role
RANDOM = np.random.default_rng(20240229)


def held(array, dtype="F64"):
    array = np.ascontiguousarray(array, {"F64": "<f8", "F16": "<f2"}[dtype])
    return from_bytes(dtype, array.shape, array.tobytes())


def module(shapes, dtype="F64"):
    return {role: held(RANDOM.standard_normal(shape), dtype) for role, shape in shapes.items()}


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_a_lora_becomes_its_product_rounded_once(dtype):
    lora = module({R.DOWN: (2, 6, 3, 3), R.UP: (8, 2, 1, 1), R.DIFF_B: (8,)}) | {R.ALPHA: scalar(1.0)}
    found = as_full(lora, dtype=dtype)
    product = torch.einsum("os,sikl->oikl", tensor(lora[R.UP])[..., 0, 0], tensor(lora[R.DOWN])) / 2
    assert found.keys() == {R.DIFF, R.DIFF_B}
    assert found[R.DIFF].dtype == dtype
    bits = {"F64": 53, "F32": 24, "F16": 11, "BF16": 8}[dtype]
    torch.testing.assert_close(
        tensor(found[R.DIFF]), product, rtol=1.01 * 2.0**-bits + 1e-15, atol=1e-7 if bits == 11 else 0
    )
    assert found[R.DIFF_B] is lora[R.DIFF_B]


def test_what_depends_on_the_weight_needs_it():
    ia3 = module({R.IA3_L: (8, 1)})
    weight, bias = (torch.from_numpy(RANDOM.standard_normal(shape)) for shape in ((8, 6), (8,)))
    with pytest.raises(NeedsBase, match="--base"):
        as_full(ia3)
    multiplier = tensor(ia3[R.IA3_L])
    found = as_full(ia3, weight, dtype="F64", base_bias=bias)
    torch.testing.assert_close(tensor(found[R.DIFF]), weight * (multiplier - 1))
    torch.testing.assert_close(tensor(found[R.DIFF_B]), bias * (multiplier[:, 0] - 1))
    assert as_full(ia3, weight).keys() == {R.DIFF}


def test_a_replacement_becomes_its_difference_from_the_weight():
    stored, weight = module({R.SET_WEIGHT: (8, 6)}), torch.from_numpy(RANDOM.standard_normal((8, 6)))
    assert torch.equal(tensor(as_full(stored, weight, dtype="F64")[R.DIFF]), tensor(stored[R.SET_WEIGHT]) - weight)


@pytest.mark.parametrize(
    "shapes", [{R.W_NORM: (8,), R.B_NORM: (8,)}, {R.DIFF: (8, 6), R.DIFF_B: (8,)}, {R.DIFF_B: (8,)}]
)
def test_norms_and_full_differences_stay_the_same_tensors_without_their_idle_alpha(shapes):
    tensors = module(shapes, "F16")
    assert as_full(tensors | {R.ALPHA: scalar(1.0)}) == tensors


def test_the_difference_takes_the_shape_of_the_weight():
    loha = module({R.HADA_W1_A: (8, 2), R.HADA_W1_B: (2, 54), R.HADA_W2_A: (8, 2), R.HADA_W2_B: (2, 54)})
    assert as_full(loha)[R.DIFF].shape == (8, 54)
    assert as_full(loha, weight_shape=(8, 6, 3, 3))[R.DIFF].shape == (8, 6, 3, 3)
    assert as_full(loha, torch.zeros(8, 6, 3, 3))[R.DIFF].shape == (8, 6, 3, 3)
