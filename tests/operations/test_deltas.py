"""Every algorithm whose ΔW is its own, against its formula written out in numpy's float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapterhub.adapter import Role
from adapterhub.errors import BrokenAdapter, NeedsBase
from adapterhub.operations.lora.deltas import change, delta
from adapterhub.tensors import LazyTensor, from_bytes, scalar

R = Role
NAMES = {"f2": "F16", "f4": "F32", "f8": "F64", "i2": "I16", "i8": "I64"}
RANDOM = np.random.default_rng(20240229)


def held(array):
    array = np.ascontiguousarray(array)
    return from_bytes(NAMES[array.dtype.str[1:]], array.shape, array.tobytes())


def draw(*shape):
    return RANDOM.standard_normal(shape)


def module(arrays, **more):
    return {role: array if isinstance(array, LazyTensor) else held(array) for role, array in (arrays | more).items()}


def close(found, expected):
    assert tuple(found.shape) == np.shape(expected)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-13)


def lora(kernel=(), rank=4, mid=False):
    down = draw(rank, 6, *(1 for _ in kernel) if mid else kernel)
    core = {R.MID: draw(rank, rank, *kernel)} if mid else {}
    return {R.DOWN: down, R.UP: draw(8, rank, *(1 for _ in kernel))} | core


def loha(columns, rank=3):
    return {R.HADA_W1_A: draw(8, rank), R.HADA_W1_B: draw(rank, columns),
            R.HADA_W2_A: draw(8, rank), R.HADA_W2_B: draw(rank, columns)}  # fmt: skip


def cored_loha(rank=3, kernel=(3, 3)):
    return {R.HADA_W1_A: draw(rank, 8), R.HADA_W1_B: draw(rank, 6), R.HADA_T1: draw(rank, rank, *kernel),
            R.HADA_W2_A: draw(rank, 8), R.HADA_W2_B: draw(rank, 6), R.HADA_T2: draw(rank, rank, *kernel)}  # fmt: skip


LOKR_LEFT = {
    "full": lambda: {R.LOKR_W1: draw(2, 3)},
    "product": lambda: {R.LOKR_W1_A: draw(2, 2), R.LOKR_W1_B: draw(2, 3)},
}
LOKR_RIGHT = {
    "full": lambda: {R.LOKR_W2: draw(4, 5)},
    "full over a kernel": lambda: {R.LOKR_W2: draw(4, 5, 3, 3)},
    "product": lambda: {R.LOKR_W2_A: draw(4, 3), R.LOKR_W2_B: draw(3, 5)},
    "product over a kernel": lambda: {R.LOKR_W2_A: draw(4, 3), R.LOKR_W2_B: draw(3, 45)},
    "tucker": lambda: {R.LOKR_W2_A: draw(3, 4), R.LOKR_W2_B: draw(3, 5), R.LOKR_T2: draw(3, 3, 3, 3)},
}


def kronecker(arrays):
    """ΔW of a LoKr before its scale, index by index."""
    w1 = arrays[R.LOKR_W1] if R.LOKR_W1 in arrays else arrays[R.LOKR_W1_A] @ arrays[R.LOKR_W1_B]
    if R.LOKR_W2 in arrays:
        w2 = arrays[R.LOKR_W2]
    elif R.LOKR_T2 in arrays:
        w2 = np.einsum("ijkl,ip,jq->pqkl", arrays[R.LOKR_T2], arrays[R.LOKR_W2_A], arrays[R.LOKR_W2_B])
    else:
        w2 = arrays[R.LOKR_W2_A] @ arrays[R.LOKR_W2_B]
    out = np.zeros((w1.shape[0] * w2.shape[0], w1.shape[1] * w2.shape[1], *w2.shape[2:]))
    for o in range(out.shape[0]):
        for i in range(out.shape[1]):
            (o1, o2), (i1, i2) = divmod(o, w2.shape[0]), divmod(i, w2.shape[1])
            out[o, i] = w1[o1, i1] * w2[o2, i2]
    return out


@pytest.mark.parametrize("kernel", [(), (1, 1), (3, 3), (3,), (1, 3, 3)])
def test_a_lora_is_up_times_down_over_linear_and_kernels_of_one_to_three_sides(kernel):
    arrays = lora(kernel)
    expected = 0.5 * np.einsum("os,si...->oi...", arrays[R.UP].reshape(8, 4), arrays[R.DOWN])
    close(delta(module(arrays) | {R.ALPHA: scalar(2.0)}).matrix(), expected)


def test_the_first_axis_of_a_core_meets_up_and_the_second_meets_down():
    arrays = lora((3, 3), mid=True)
    up, down = arrays[R.UP].reshape(8, 4), arrays[R.DOWN].reshape(4, 6)
    close(delta(module(arrays)).matrix(), np.einsum("os,stkl,ti->oikl", up, arrays[R.MID], down))


def test_adalora_puts_its_singular_values_between_the_factors():
    arrays = lora() | {R.ADALORA_E: draw(4, 1)}
    expected = arrays[R.UP] @ np.diag(arrays[R.ADALORA_E][:, 0]) @ arrays[R.DOWN] * 1.5
    close(delta(module(arrays) | {R.ALPHA: scalar(6.0)}).matrix(), expected)


def test_a_dense_residual_is_added_before_the_scale_and_a_sparse_one_after_it():
    arrays = lora((3, 3))
    dense, sparse = draw(8, 6, 3, 3), np.zeros((8, 54))
    indices, values = np.array([[0, 7, 7], [53, 0, 9]], "i2"), np.array([1.5, -2.0, 0.25])
    sparse[indices[0], indices[1]] = values
    product = np.einsum("os,sikl->oikl", arrays[R.UP][..., 0, 0], arrays[R.DOWN])
    stored = module(arrays | {R.RESIDUAL: dense, R.RESIDUAL_INDICES: indices, R.RESIDUAL_VALUES: values,
                              R.RESIDUAL_SIZE: np.array([8, 54], "i2")}) | {R.ALPHA: scalar(1.0)}  # fmt: skip
    close(delta(stored).matrix(), (product + dense) / 4 + sparse.reshape(8, 6, 3, 3))


@pytest.mark.parametrize("columns", [6, 54])
def test_a_loha_is_the_elementwise_product_of_two_products(columns):
    arrays = loha(columns)
    expected = (arrays[R.HADA_W1_A] @ arrays[R.HADA_W1_B]) * (arrays[R.HADA_W2_A] @ arrays[R.HADA_W2_B]) / 3
    close(delta(module(arrays) | {R.ALPHA: scalar(1.0)}).matrix(), expected)


def test_a_loha_with_cores_transposes_its_outer_factors():
    a = cored_loha()
    first = np.einsum("ijkl,ip,jq->pqkl", a[R.HADA_T1], a[R.HADA_W1_A], a[R.HADA_W1_B])
    second = np.einsum("ijkl,ip,jq->pqkl", a[R.HADA_T2], a[R.HADA_W2_A], a[R.HADA_W2_B])
    close(delta(module(a) | {R.ALPHA: scalar(6.0)}).matrix(), 2 * first * second)


@pytest.mark.parametrize("left", LOKR_LEFT)
@pytest.mark.parametrize("right", LOKR_RIGHT)
def test_a_lokr_is_a_kronecker_product_however_its_factors_are_stored(left, right):
    arrays = LOKR_LEFT[left]() | LOKR_RIGHT[right]()
    full = left == "full" and right.startswith("full")
    rank = 3 if not right.startswith("full") else 2
    expected = kronecker(arrays) * (1 if full else 6 / rank)
    found = delta(module(arrays) | {R.ALPHA: scalar(6.0)}).matrix()
    close(found.reshape(expected.shape if right != "product over a kernel" else (8, 135)),
          expected if right != "product over a kernel" else expected.reshape(8, 135))  # fmt: skip


def test_a_lokr_over_a_kernel_stored_flat_takes_the_shape_of_its_weight():
    flat = LOKR_LEFT["full"]() | LOKR_RIGHT["product over a kernel"]()
    w2 = (flat[R.LOKR_W2_A] @ flat[R.LOKR_W2_B]).reshape(4, 5, 3, 3)
    weight = draw(8, 15, 3, 3)
    found = delta(module(flat)).apply(torch.from_numpy(weight))
    close(found, weight + kronecker({R.LOKR_W1: flat[R.LOKR_W1], R.LOKR_W2: w2}))


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 3, 3), (8,)])
def test_a_full_difference_ignores_alpha(shape):
    difference = draw(*shape)
    close(delta({R.DIFF: held(difference), R.ALPHA: scalar(0.5)}).matrix(), difference)


def test_a_norm_changes_its_weight_and_its_bias():
    gamma, beta = draw(8), draw(8)
    found = delta(module({R.W_NORM: gamma, R.B_NORM: beta}))
    close(found.matrix(), gamma)
    close(found.bias(), beta)
    close(delta(module({R.B_NORM: beta})).matrix(), np.zeros(8))


def test_a_module_that_only_changes_its_bias_leaves_the_weight():
    weight, bias = draw(8, 6), draw(8)
    found = delta(module({R.DIFF_B: bias}))
    close(found.apply(torch.from_numpy(weight), 0.5), weight)
    close(found.matrix(), np.zeros(()))
    close(found.bias(), bias)


def test_the_bias_of_up_is_scaled_as_up_is_and_added_to_diff_b():
    arrays, up_bias, diff_b = lora(), draw(8), draw(8)
    scaled = module(arrays | {R.UP_BIAS: up_bias}) | {R.ALPHA: scalar(2.0)}
    close(delta(scaled).bias(), up_bias / 2)
    close(delta(scaled | {R.DIFF_B: held(diff_b)}).bias(), up_bias / 2 + diff_b)
    assert delta(module(arrays)).bias() is None


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        ({}, 1.0),
        ({R.ALPHA: scalar(4.0)}, 1.0),
        ({R.ALPHA: scalar(1.0)}, 0.25),
        ({R.ALPHA: scalar(1.0, "F16").reshape(1)}, 0.25),
        ({R.ALPHA: scalar(3, "I64")}, 0.75),
        ({R.ALPHA: scalar(0.0)}, 0.0),
        ({R.ALPHA: scalar(-2.0)}, -0.5),
        ({R.ALPHA: scalar(1.0), R.SCALE: scalar(3.0)}, 3.0),
        ({R.ALPHA: scalar(1.0), R.SCALAR: scalar(8.0)}, 2.0),
        ({R.SCALE: scalar(3.0), R.SCALAR: scalar(0.5)}, 1.5),
    ],
)
def test_alpha_is_divided_by_the_rank_scale_replaces_both_and_scalar_multiplies(scales, expected):
    arrays = lora()
    close(delta(module(arrays) | scales).matrix(), expected * (arrays[R.UP] @ arrays[R.DOWN]))


def test_a_rank_of_zero_changes_nothing():
    arrays = {R.DOWN: np.zeros((0, 6)), R.UP: np.zeros((8, 0))}
    close(delta(module(arrays) | {R.ALPHA: scalar(1.0)}).matrix(), np.zeros((8, 6)))


@pytest.mark.parametrize(("weight", "kernel"), [((8, 6), (1, 1)), ((8, 6, 1, 1), ())])
def test_linear_and_one_by_one_convolutions_are_the_same_to_apply(weight, kernel):
    arrays, base = lora(kernel), draw(*weight)
    expected = base.reshape(8, 6) + arrays[R.UP].reshape(8, 4) @ arrays[R.DOWN].reshape(4, 6)
    close(delta(module(arrays)).apply(torch.from_numpy(base)), expected.reshape(weight))


ADDITIVE = {
    "lora": lora, "locon": lambda: lora((3, 3)), "core": lambda: lora((3, 3), mid=True),
    "loha": lambda: loha(6), "loha with cores": cored_loha,
    "lokr": lambda: {R.LOKR_W1: draw(2, 3), R.LOKR_W2_A: draw(4, 3), R.LOKR_W2_B: draw(3, 2)},
    "full": lambda: {R.DIFF: draw(8, 6)},
}  # fmt: skip


@pytest.mark.parametrize("name", ADDITIVE)
@given(strength=st.floats(-4, 4))
def test_strength_is_linear(name, strength):
    found = delta(module(ADDITIVE[name]()))
    weight = torch.from_numpy(draw(*found.matrix().shape))
    expected = weight + strength * (found.apply(weight) - weight)
    assert torch.allclose(found.apply(weight, strength), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ADDITIVE)
def test_strength_nought_is_the_base_itself_in_float64(name):
    found = delta(module(ADDITIVE[name]()))
    weight = torch.from_numpy(draw(*found.matrix().shape)).to(torch.bfloat16)
    assert torch.equal(found.apply(weight, 0.0), weight.to(torch.float64))


@pytest.mark.parametrize(
    ("roles", "named"),
    [
        ({R.DOWN: (4, 6)}, "lora_up"),
        ({R.HADA_W1_A: (8, 2), R.HADA_W1_B: (2, 6), R.HADA_W2_A: (8, 2)}, "hada_w2_b"),
        ({R.LOKR_W1: (2, 2), R.LOKR_W2_A: (4, 2)}, "lokr_w2_b"),
        ({R.HADA_W1_A: (2, 8), R.HADA_W1_B: (2, 6), R.HADA_W2_A: (2, 8), R.HADA_W2_B: (2, 6),
          R.HADA_T1: (2, 2, 3, 3)}, "hada_t2"),
        ({R.UP: (8, 4), R.DOWN: (4, 6), R.RESIDUAL_INDICES: (2, 1)}, "bias_values"),
        ({R.GLORA_A1: (6, 2), R.GLORA_A2: (2, 6), R.GLORA_B1: (8, 2)}, "b2"),
        ({R.ALPHA: ()}, "alpha"),
        ({R.DORA_SCALE: (8, 1)}, "dora_scale"),
        ({R.VECTORS: (4, 768)}, "vectors"),
    ],
)  # fmt: skip
def test_a_module_that_is_not_whole_is_broken_and_the_roles_are_named(roles, named):
    with pytest.raises(BrokenAdapter, match=named):
        delta({role: held(np.zeros(shape)) for role, shape in roles.items()})


def test_ranks_that_do_not_meet_are_broken_and_the_shapes_are_listed():
    found = delta(module({R.DOWN: draw(4, 6), R.UP: draw(8, 3)}))
    with pytest.raises(BrokenAdapter, match=r"lora_down \[4, 6\], lora_up \[8, 3\]"):
        found.matrix()
    with pytest.raises(BrokenAdapter, match=r"lora_up \[8, 4\]"):
        delta(module(lora())).apply(torch.zeros(8, 5))


def test_change_is_the_same_with_the_weight_and_without_where_it_does_not_matter():
    stored, weight = module(lora()), torch.from_numpy(draw(8, 6))
    torch.testing.assert_close(change(stored, weight), change(stored, None), rtol=1e-12, atol=1e-12)
    with pytest.raises(NeedsBase, match="--base"):
        change(stored | {R.DORA_SCALE: held(draw(8, 1))}, None)


@pytest.mark.parametrize(
    ("indices", "outside"), [([[0, -1], [0, 0]], -1), ([[0, 1], [3, 0]], 3), ([[2, 0], [0, 0]], 2)]
)
def test_an_index_of_a_sparse_residual_outside_of_the_weight_is_malformed(indices, outside):
    tensors = {R.DOWN: held(np.ones((1, 3))), R.UP: held(np.ones((2, 1))), R.RESIDUAL_VALUES: held(np.ones(2)),
               R.RESIDUAL_INDICES: held(np.array(indices, float))}  # fmt: skip
    with pytest.raises(BrokenAdapter, match=rf"an index of the sparse residual, {outside}, lies outside of \[2, 3\]"):
        delta(tensors).matrix()
