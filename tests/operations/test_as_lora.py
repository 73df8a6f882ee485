"""Any algorithm as a LoRA: exact where that is possible, else the best approximation of its rank."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adapterhub.adapter import Role
from adapterhub.errors import BrokenAdapter, NeedsBase, UsageError
from adapterhub.operations.lora.as_lora import as_lora
from adapterhub.operations.lora.deltas import change, tensor
from adapterhub.tensors import from_bytes, item, scalar

R = Role
RANDOM = np.random.default_rng(20240229)


def held(array, dtype="F64"):
    array = np.ascontiguousarray(array, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype])
    return from_bytes(dtype, array.shape, array.tobytes())


def module(shapes, dtype="F64"):
    return {role: held(RANDOM.standard_normal(shape), dtype) for role, shape in shapes.items()}


def difference(first, second):
    """‖first − second‖ / ‖second‖ (Frobenius)"""
    second = second.flatten(1)
    return float((first.flatten(1) - second).norm() / second.norm())


LOHA = {R.HADA_W1_A: (8, 3), R.HADA_W1_B: (3, 54), R.HADA_W2_A: (8, 3), R.HADA_W2_B: (3, 54)}
CORED = {R.HADA_W1_A: (2, 8), R.HADA_W1_B: (2, 6), R.HADA_T1: (2, 2, 3, 3),
         R.HADA_W2_A: (2, 8), R.HADA_W2_B: (2, 6), R.HADA_T2: (2, 2, 3, 3)}  # fmt: skip
EXACT = {
    # roles, rank of the LoRA, its shapes
    "core": ({R.DOWN: (4, 6, 1, 1), R.MID: (4, 4, 3, 3), R.UP: (8, 4, 1, 1)}, (4, 6, 3, 3), (8, 4, 1, 1)),
    "adalora": ({R.DOWN: (4, 6), R.ADALORA_E: (4, 1), R.UP: (8, 4)}, (4, 6), (8, 4)),
    "loha": (LOHA, (9, 54), (8, 9)),
    "loha with cores": (CORED, (4, 6, 3, 3), (8, 4, 1, 1)),
    "lokr, both products": (
        {R.LOKR_W1_A: (4, 2), R.LOKR_W1_B: (2, 6), R.LOKR_W2_A: (8, 3), R.LOKR_W2_B: (3, 10)}, (6, 60), (32, 6)),
    "lokr, tall w1 and a product": ({R.LOKR_W1: (4, 2), R.LOKR_W2_A: (8, 3), R.LOKR_W2_B: (3, 10)}, (6, 20), (32, 6)),
    "lokr, wide w1 and a product": ({R.LOKR_W1: (2, 4), R.LOKR_W2_A: (8, 3), R.LOKR_W2_B: (3, 10)}, (6, 40), (16, 6)),
    "lokr, a product and full w2": ({R.LOKR_W1_A: (4, 1), R.LOKR_W1_B: (1, 5), R.LOKR_W2: (6, 3)}, (3, 15), (24, 3)),
    "lokr, both full": ({R.LOKR_W1: (2, 3), R.LOKR_W2: (4, 5)}, (8, 15), (8, 8)),
    "lokr, both full over a kernel": ({R.LOKR_W1: (3, 2), R.LOKR_W2: (4, 5, 3, 3)}, (8, 10, 3, 3), (12, 8, 1, 1)),
    "lokr, tucker": (
        {R.LOKR_W1: (2, 2), R.LOKR_W2_A: (2, 4), R.LOKR_W2_B: (2, 5), R.LOKR_T2: (2, 2, 3, 3)},
        (4, 10, 3, 3), (8, 4, 1, 1)),
    "lokr, tucker, 1×1": (
        {R.LOKR_W1: (2, 2), R.LOKR_W2_A: (2, 4, 1, 1), R.LOKR_W2_B: (2, 5, 1, 1), R.LOKR_T2: (2, 2, 3, 3)},
        (4, 10, 3, 3), (8, 4, 1, 1)),
    "loha, 1×1": (
        {**LOHA, R.HADA_W1_A: (8, 3, 1, 1), R.HADA_W2_A: (8, 3, 1, 1)}, (9, 54), (8, 9)),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("alpha", [None, 2.0, 0.1])
def test_a_product_of_any_kind_is_a_lora_of_the_rank_that_its_factors_give(name, alpha):
    shapes, down, up = EXACT[name]
    tensors = module(shapes) | ({} if alpha is None else {R.ALPHA: scalar(alpha)})
    found = as_lora(tensors)
    assert (found.exact, found.error) == (True, 0.0)
    assert {role: lazy.shape for role, lazy in found.tensors.items()} == {R.DOWN: down, R.UP: up, R.ALPHA: ()}
    assert difference(change(found.tensors, None), change(tensors, None)) < 1e-14


@pytest.mark.parametrize(
    "name", sorted(EXACT.keys() - {"core", "loha with cores", "lokr, tucker", "lokr, tucker, 1×1"})
)  # cores sum products
def test_products_of_two_float16_values_are_exact_in_float32(name):
    tensors = module(EXACT[name][0], "F16")
    found = as_lora(tensors)
    computed = {lazy.dtype for role, lazy in found.tensors.items() if lazy is not tensors.get(role)}
    assert computed == {"F32"}
    wide = as_lora({role: held(tensor(lazy).numpy()) for role, lazy in tensors.items()})
    for role in (R.DOWN, R.UP):
        assert torch.equal(tensor(found.tensors[role]), tensor(wide.tensors[role]))


@pytest.mark.parametrize(
    ("alpha", "rank", "stored"),
    [(2.0, 9, 6.0), (3.0, 9, 9.0), (1.0, 9, 3.0), (0.0, 9, 0.0)],
)
def test_alpha_grows_with_the_rank_so_that_the_scale_stays(alpha, rank, stored):
    found = as_lora(module(LOHA) | {R.ALPHA: scalar(alpha)})
    assert found.tensors[R.DOWN].shape[0] == rank
    assert item(found.tensors[R.ALPHA]) == stored


def test_a_scale_that_no_float32_alpha_can_give_goes_into_up():
    lora = module({R.DOWN: (3, 6), R.UP: (8, 3)}) | {R.ALPHA: scalar(0.1), R.SCALAR: scalar(0.3)}
    found = as_lora(lora)
    assert item(found.tensors[R.ALPHA]) == 3.0
    assert found.tensors[R.DOWN] is lora[R.DOWN]
    assert difference(change(found.tensors, None), change(lora, None)) < 1e-15


def test_a_lora_stays_the_very_same_tensors():
    lora = module({R.DOWN: (3, 6), R.UP: (8, 3), R.UP_BIAS: (8,), R.DIFF_B: (8,)}) | {R.ALPHA: scalar(0.1)}
    for rank in (None, 3, 4):
        assert as_lora(lora, rank=rank) == (lora, True, 0.0)


def test_a_stored_scale_becomes_alpha_and_the_factors_stay():
    lora = module({R.DOWN: (4, 6), R.UP: (8, 4)}, "F16") | {R.SCALE: scalar(0.5), R.SCALAR: scalar(4.0)}
    found = as_lora(lora)
    assert found.tensors.keys() == {R.DOWN, R.UP, R.ALPHA}
    assert item(found.tensors[R.ALPHA]) == 8.0
    assert found.tensors[R.DOWN] is lora[R.DOWN]
    assert found.tensors[R.UP] is lora[R.UP]


@pytest.mark.parametrize("shapes", [{R.W_NORM: (8,), R.B_NORM: (8,)}, {R.DIFF_B: (8,)}, {R.DIFF: (8,), R.DIFF_B: (8,)}])
def test_norms_and_biases_stay_as_they_are(shapes):
    tensors = module(shapes)
    assert as_lora(tensors, rank=2) == (tensors, True, 0.0)


def test_the_bias_is_carried_along_and_that_of_up_becomes_a_difference():
    bias = {R.DIFF_B: (8,)}
    loha = module(LOHA | bias)
    assert as_lora(loha).tensors[R.DIFF_B] is loha[R.DIFF_B]
    adalora = module(EXACT["adalora"][0] | bias | {R.UP_BIAS: (8,)}) | {R.ALPHA: scalar(2.0)}
    expected = tensor(adalora[R.DIFF_B]) + tensor(adalora[R.UP_BIAS]) / 2
    torch.testing.assert_close(tensor(as_lora(adalora).tensors[R.DIFF_B]), expected)


@pytest.mark.parametrize(
    ("weight_shape", "down", "up"),
    [
        ((8, 54), (9, 54), (8, 9)),
        ((8, 6, 3, 3), (9, 6, 3, 3), (8, 9, 1, 1)),
        ((8, 54, 1, 1), (9, 54, 1, 1), (8, 9, 1, 1)),
    ],
)
def test_the_factors_take_the_dimensions_of_the_weight(weight_shape, down, up):
    loha = module(LOHA)
    for found in (as_lora(loha, weight_shape=weight_shape), as_lora(loha, torch.zeros(weight_shape))):
        assert (found.tensors[R.DOWN].shape, found.tensors[R.UP].shape) == (down, up)
    cut = as_lora(loha, rank=2, weight_shape=weight_shape)
    assert (cut.tensors[R.DOWN].shape, cut.tensors[R.UP].shape) == ((2, *down[1:]), (up[0], 2, *up[2:]))


CUT = EXACT | {
    "lora": ({R.DOWN: (5, 6), R.UP: (8, 5)}, None, None),
    "residual": ({R.DOWN: (2, 6), R.UP: (8, 2), R.RESIDUAL: (8, 6)}, None, None),
    "full": ({R.DIFF: (8, 6, 3, 3)}, None, None),
}


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("rank", [1, 2])
def test_a_rank_that_does_not_suffice_leaves_the_tail_of_the_singular_values(name, rank):
    tensors = module(CUT[name][0]) | {R.ALPHA: scalar(-3.0)}
    whole = change(tensors, None)
    sizes = np.linalg.svd(whole.flatten(1).numpy(), compute_uv=False)
    tail = np.sqrt((sizes[rank:] ** 2).sum() / (sizes**2).sum())
    found = as_lora(tensors, rank=rank)
    assert not found.exact
    assert found.error == pytest.approx(tail, rel=1e-10)
    assert difference(change(found.tensors, None), whole) == pytest.approx(tail, rel=1e-10)
    assert (found.tensors[R.DOWN].shape[0], item(found.tensors[R.ALPHA])) == (rank, rank)


RELATIVE = {
    "dora": {R.DOWN: (2, 6), R.UP: (8, 2), R.DORA_SCALE: (8, 1)},
    "ia3": {R.IA3_L: (8, 1)},
    "oft": {R.OFT_BLOCKS: (2, 4, 4)},
    "boft": {R.OFT_BLOCKS: (2, 2, 4, 4)},
    "glora": {R.GLORA_A1: (6, 2), R.GLORA_A2: (2, 6), R.GLORA_B1: (8, 2), R.GLORA_B2: (2, 6)},
    "set_weight": {R.SET_WEIGHT: (8, 6)},
}


@pytest.mark.parametrize("name", RELATIVE)
def test_what_depends_on_the_weight_takes_a_rank_and_the_weight(name):
    tensors, weight = module(RELATIVE[name]), torch.from_numpy(RANDOM.standard_normal((8, 6)))
    with pytest.raises(UsageError, match="--rank"):
        as_lora(tensors, weight)
    with pytest.raises(NeedsBase, match="--base"):
        as_lora(tensors, rank=2)
    whole = change(tensors, weight)
    sizes = np.linalg.svd(whole.numpy(), compute_uv=False)
    found = as_lora(tensors, weight, rank=3)
    assert found.error == pytest.approx(np.sqrt((sizes[3:] ** 2).sum() / (sizes**2).sum()), rel=1e-9)
    assert difference(change(found.tensors, None), whole) == pytest.approx(found.error, rel=1e-9)


def test_a_rank_above_that_of_the_weight_is_cut_to_it():
    found = as_lora(module({R.DIFF: (8, 6)}), rank=64)
    assert found.tensors[R.DOWN].shape == (6, 6)
    assert found.error == 0.0


def test_a_change_of_nothing_has_no_error():
    assert as_lora({R.DIFF: held(np.zeros((8, 6)))}, rank=2).error == 0.0


@pytest.mark.parametrize(("dtype", "expected"), [(None, "F64"), ("F16", "F16"), ("BF16", "BF16"), ("F32", "F32")])
def test_computed_factors_have_the_dtype_that_was_asked_for(dtype, expected):
    found = as_lora(module(LOHA), rank=2, dtype=dtype).tensors
    assert (found[R.DOWN].dtype, found[R.UP].dtype) == (expected, expected)


def test_values_that_are_not_finite_have_no_approximation():
    with pytest.raises(BrokenAdapter, match="finite"):
        as_lora({R.DIFF: held(np.array([[1.0, np.nan]]))}, rank=1)
    with pytest.raises(BrokenAdapter, match="inf"):
        as_lora(module(LOHA) | {R.ALPHA: scalar(np.inf)})


def test_a_rank_of_nought_is_no_rank():
    with pytest.raises(UsageError, match="rank of 0"):
        as_lora(module(LOHA), rank=0)
