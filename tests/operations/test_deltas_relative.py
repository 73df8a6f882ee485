"""Every algorithm that changes a weight as a function of it, against its formula written out in numpy's float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapterhub.adapter import Role
from adapterhub.errors import BrokenAdapter, NeedsBase
from adapterhub.operations.lora.deltas import delta
from adapterhub.tensors import from_bytes, scalar

R = Role
RANDOM = np.random.default_rng(20240229)
SHAPES = [(8, 12), (8, 12, 1, 1), (8, 12, 3, 3)]
EPSILON = np.finfo(np.float64).eps


def held(array, dtype="F64"):
    array = np.ascontiguousarray(array, {"F64": "<f8", "I64": "<i8"}[dtype])
    return from_bytes(dtype, array.shape, array.tobytes())


def draw(*shape):
    return RANDOM.standard_normal(shape)


def applied(tensors, weight, strength=1.0):
    return delta(tensors).apply(torch.from_numpy(weight), strength).numpy()


def close(found, expected):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


def rotation(skew):
    """(I+Q)(I−Q)⁻¹"""
    one = np.eye(len(skew))
    return (one + skew) @ np.linalg.inv(one - skew)


def block_diagonal(blocks):
    size, whole = len(blocks[0]), np.zeros((sum(map(len, blocks)),) * 2)
    for number, block in enumerate(blocks):
        whole[number * size : (number + 1) * size, number * size : (number + 1) * size] = block
    return whole


def lora(shape, rank=3):
    return {R.DOWN: held(draw(rank, *shape[1:])), R.UP: held(draw(shape[0], rank, *(1 for _ in shape[2:])))}


def product(tensors, shape):
    up, down = (np.frombuffer(tensors[role].read()).reshape(tensors[role].shape) for role in (R.UP, R.DOWN))
    return (up.reshape(len(up), -1) @ down.reshape(len(down), -1)).reshape(shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stored", ["(O, 1, …)", "(O, 1)", "(O,)"])
def test_dora_on_the_output_axis_gives_every_row_its_magnitude(shape, stored):
    tensors, weight, magnitude = lora(shape), draw(*shape), draw(8) ** 2
    stored_shape = {"(O, 1, …)": (8, *(1 for _ in shape[1:])), "(O, 1)": (8, 1), "(O,)": (8,)}[stored]
    turned = weight + product(tensors, shape) / 6
    found = applied(tensors | {R.ALPHA: scalar(0.5), R.DORA_SCALE: held(magnitude.reshape(stored_shape))}, weight)
    norms = np.sqrt((turned.reshape(8, -1) ** 2).sum(1)) + EPSILON
    close(found, turned * (magnitude / norms).reshape(8, *(1 for _ in shape[1:])))


@pytest.mark.parametrize("shape", SHAPES)
def test_dora_on_the_input_axis_gives_every_input_channel_its_magnitude_over_the_kernel(shape):
    tensors, weight, magnitude = lora(shape), draw(*shape), draw(12) ** 2
    axis = (1, 12, *(1 for _ in shape[2:]))
    turned = weight + product(tensors, shape)
    norms = np.sqrt((turned.reshape(8, 12, -1) ** 2).sum((0, 2))) + EPSILON
    close(
        applied(tensors | {R.DORA_SCALE: held(magnitude.reshape(axis))}, weight),
        turned * (magnitude / norms).reshape(axis),
    )


@pytest.mark.parametrize(("axis", "reduced"), [((6, 1), 1), ((1, 6), 0), ((6,), 1)])
def test_the_axis_of_a_square_dora_is_the_one_that_its_shape_shows(axis, reduced):
    tensors, weight, magnitude = lora((6, 6)), draw(6, 6), draw(6) ** 2
    turned = weight + product(tensors, (6, 6))
    norms = np.sqrt((turned**2).sum(reduced, keepdims=True)) + EPSILON
    found = applied(tensors | {R.DORA_SCALE: held(magnitude.reshape(axis))}, weight)
    close(found, turned * magnitude.reshape(norms.shape) / norms)


@pytest.mark.parametrize("axis", [(8, 12), (12, 1), (1, 9), (12,), ()])
def test_a_magnitude_that_lies_on_neither_axis_is_refused(axis):
    tensors = lora((8, 12)) | {R.DORA_SCALE: held(draw(*axis))}
    with pytest.raises(BrokenAdapter, match="neither axis"):
        applied(tensors, draw(8, 12))


def test_dora_lies_over_loha_and_lokr_too():
    weight, magnitude = draw(8, 12), draw(8, 1) ** 2
    a1, b1, a2, b2 = draw(8, 2), draw(2, 12), draw(8, 2), draw(2, 12)
    w1, w2 = draw(2, 3), draw(4, 4)
    loha = {R.HADA_W1_A: held(a1), R.HADA_W1_B: held(b1), R.HADA_W2_A: held(a2), R.HADA_W2_B: held(b2)}
    for tensors, change in (
        (loha, (a1 @ b1) * (a2 @ b2)),
        ({R.LOKR_W1: held(w1), R.LOKR_W2: held(w2)}, np.kron(w1, w2)),
    ):
        turned = weight + change
        norms = np.linalg.norm(turned, axis=1, keepdims=True) + EPSILON
        close(applied(tensors | {R.DORA_SCALE: held(magnitude)}, weight), turned * magnitude / norms)


def test_a_row_that_dora_turns_to_nothing_stays_finite():
    tensors = {R.DOWN: held(np.zeros((1, 4))), R.UP: held(np.zeros((2, 1))), R.DORA_SCALE: held(np.ones((2, 1)))}
    close(applied(tensors, np.zeros((2, 4))), np.zeros((2, 4)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("on_input", [True, False])
def test_ia3_of_lycoris_is_added_along_the_axis_that_its_flag_names(shape, on_input):
    weight, size = draw(*shape), 12 if on_input else 8
    vector = draw(size)
    axis = ((1, 12) if on_input else (8, 1)) + tuple(1 for _ in shape[2:])
    expected = weight + weight * vector.reshape(axis)
    for stored in ((size,), (1, size, *(1 for _ in shape[2:]))):
        tensors = {R.IA3_WEIGHT: held(vector.reshape(stored)), R.ON_INPUT: held(np.array(int(on_input)), "I64")}
        close(applied(tensors, weight), expected)


@pytest.mark.parametrize(
    ("shape", "stored", "axis"),
    [
        ((8, 12), (8, 1), (8, 1)), ((8, 12), (1, 12), (1, 12)), ((6, 6), (6, 1), (6, 1)), ((6, 6), (1, 6), (1, 6)),
        ((8, 12, 3, 3), (1, 8, 1, 1), (8, 1, 1, 1)), ((8, 12, 3, 3), (1, 12, 1, 1), (1, 12, 1, 1)),
    ],
)  # fmt: skip
def test_ia3_of_peft_multiplies_along_the_axis_that_its_shape_shows(shape, stored, axis):
    weight, multiplier = draw(*shape), draw(*stored)
    close(applied({R.IA3_L: held(multiplier)}, weight), weight * multiplier.reshape(axis))


def test_ia3_of_peft_multiplies_the_bias_on_the_output_axis_only():
    multiplier, bias = draw(8, 1), draw(8)
    on_output, on_input = delta({R.IA3_L: held(multiplier)}), delta({R.IA3_L: held(draw(1, 8))})
    close(on_output.bias(torch.from_numpy(bias)).numpy(), bias * multiplier[:, 0] - bias)
    assert on_input.bias(torch.from_numpy(bias)) is None
    assert on_output.bias() is None


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alpha", [None, 0.0, 0.01, 1000.0])
def test_oft_turns_the_rows_block_by_block_within_its_constraint(shape, alpha):
    weight, blocks, rescale = draw(*shape), draw(2, 4, 4), draw(8, *(1 for _ in shape[1:]))
    skews = blocks - blocks.transpose(0, 2, 1)
    norm = np.sqrt((skews**2).sum()) + 1e-8
    if alpha and norm > alpha * 8:
        skews = skews * (alpha * 8 / norm)
    turned = block_diagonal([rotation(skew) for skew in skews]).T @ weight.reshape(8, -1)
    tensors = {R.OFT_BLOCKS: held(blocks)} | ({} if alpha is None else {R.ALPHA: scalar(alpha, "F64")})
    close(applied(tensors, weight), turned.reshape(shape))
    close(applied(tensors | {R.RESCALE: held(rescale)}, weight), turned.reshape(shape) * rescale)


def test_oft_diag_is_the_rotation_itself():
    weight, blocks = draw(8, 12), draw(2, 4, 4)
    close(applied({R.OFT_DIAG: held(blocks)}, weight), block_diagonal(blocks).T @ weight)


def skew_of(entries):
    """The skew-symmetric 4 × 4 matrix of the six entries above its diagonal, row by row."""
    a, b, c, d, e, f = entries
    return np.array([[0, a, b, c], [-a, 0, d, e], [-b, -d, 0, f], [-c, -e, -f, 0]])


SERIES = {
    1: lambda q: np.eye(4),
    2: lambda q: np.eye(4) + 2 * q,
    3: lambda q: np.eye(4) + 2 * q + 2 * q @ q + q @ q @ q,
    4: lambda q: np.eye(4) + 2 * q + 2 * q @ q + q @ q @ q,
    5: lambda q: np.eye(4) + 2 * q + 2 * q @ q + 2 * q @ q @ q + q @ q @ q @ q,
    6: lambda q: np.eye(4) + 2 * (q + q @ q + q @ q @ q + q @ q @ q @ q) + q @ q @ q @ q @ q,
}


@pytest.mark.parametrize("terms", [None, 0, *SERIES])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shared", [True, False])
def test_oft_of_peft_turns_the_columns_by_the_transform_that_its_terms_name(terms, shape, shared):
    weight, number = draw(*shape), int(np.prod(shape[1:])) // 4
    entries = draw(1 if shared else number, 6) / 5
    turn = SERIES.get(5 if terms is None else terms, lambda q: rotation(-q))
    blocks = [turn(skew_of(row)) for row in (np.repeat(entries, number, 0) if shared else entries)]
    tensors = {R.OFT_R: held(entries)} | ({} if terms is None else {R.OFT_TERMS: scalar(terms, "I64")})
    close(applied(tensors, weight), (weight.reshape(8, -1) @ block_diagonal(blocks).T).reshape(shape))


@pytest.mark.parametrize(("flag", "divisor"), [(True, 2 * np.sqrt(3)), (False, 1.0)])
def test_oft_of_onetrainer_divides_its_entries_where_its_flag_says_so(flag, divisor):
    weight, entries = draw(8, 12), draw(3, 6) / 5
    blocks = [SERIES[5](skew_of(row / divisor)) for row in entries]
    tensors = {R.OFT_R: held(entries), R.OFT_SCALED: scalar(flag, "BOOL")}
    close(applied(tensors, weight), weight @ block_diagonal(blocks).T)


def test_the_exact_transform_of_peft_turns_against_its_series():
    weight, entries = np.eye(4), held(np.array([[1e-3, 0, 0, 0, 0, 0]]))
    exact = applied({R.OFT_R: entries, R.OFT_TERMS: scalar(0, "I64")}, weight)
    series = applied({R.OFT_R: entries, R.OFT_TERMS: scalar(5, "I64")}, weight)
    np.testing.assert_allclose(exact, series.T, atol=1e-11)
    assert exact[0, 1] == pytest.approx(2e-3, rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("stages", "size"), [(1, 4), (2, 4), (3, 2)])
def test_boft_turns_rows_that_lie_further_apart_at_every_stage(shape, stages, size):
    weight, blocks, rescale = draw(*shape), draw(stages, 8 // size, size, size) / 3, draw(8, *(1 for _ in shape[1:]))
    turned = weight.reshape(8, -1)
    for stage, parameters in enumerate(blocks):
        apart = 2**stage * size // 2
        met = [
            row for start in range(0, 8, 2 * apart) for low in range(start, start + apart) for row in (low, low + apart)
        ]
        shuffle = np.eye(8)[met]
        turns = block_diagonal([rotation(block - block.T) for block in parameters])
        turned = shuffle.T @ turns @ shuffle @ turned
    close(applied({R.OFT_BLOCKS: held(blocks)}, weight), turned.reshape(shape))
    close(applied({R.OFT_BLOCKS: held(blocks), R.RESCALE: held(rescale)}, weight), turned.reshape(shape) * rescale)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("old", [True, False])
def test_glora_adds_a_change_and_a_change_of_what_the_weight_passes_on(shape, old):
    weight = draw(*shape)
    a1, a2, b1, b2 = draw(12, 3), draw(3, 12), draw(8, 3), draw(3, int(np.prod(shape[1:])))
    passed = np.einsum("oi...,ij->oj...", weight, a1 @ a2)
    expected = weight + ((b1 @ b2).reshape(shape) + passed) * 2
    names = (
        (R.GLORA_A2, R.GLORA_A1, R.GLORA_B2, R.GLORA_B1) if old else (R.GLORA_A1, R.GLORA_A2, R.GLORA_B1, R.GLORA_B2)
    )
    tensors = {role: held(factor) for role, factor in zip(names, (a1, a2, b1, b2), strict=True)}
    close(applied(tensors | {R.ALPHA: scalar(6.0)}, weight), expected)


def test_a_replacement_is_the_weight_itself():
    weight, other = draw(8, 12), draw(8, 12)
    close(applied({R.SET_WEIGHT: held(other)}, weight), other)
    close(applied({R.SET_WEIGHT: held(other)}, weight, 0.25), weight + (other - weight) / 4)


RELATIVE = {
    "dora": lambda: lora((8, 12)) | {R.DORA_SCALE: held(draw(8, 1))},
    "ia3": lambda: {R.IA3_WEIGHT: held(draw(8)), R.ON_INPUT: held(np.array(0), "I64")},
    "ia3 of peft": lambda: {R.IA3_L: held(draw(8, 1))},
    "oft": lambda: {R.OFT_BLOCKS: held(draw(2, 4, 4)), R.RESCALE: held(draw(8, 1))},
    "oft of peft": lambda: {R.OFT_R: held(draw(3, 6))},
    "boft": lambda: {R.OFT_BLOCKS: held(draw(2, 2, 4, 4))},
    "boft of peft": lambda: {R.BOFT_R: held(draw(1, 3, 4, 4)), R.BOFT_S: held(draw(8, 1))},
    "glora": lambda: {R.GLORA_A1: held(draw(12, 3)), R.GLORA_A2: held(draw(3, 12)),
                      R.GLORA_B1: held(draw(8, 3)), R.GLORA_B2: held(draw(3, 12))},
    "set_weight": lambda: {R.SET_WEIGHT: held(draw(8, 12))},
}  # fmt: skip


@pytest.mark.parametrize("name", RELATIVE)
@given(strength=st.floats(-4, 4))
def test_strength_is_linear_here_too(name, strength):
    tensors, weight = RELATIVE[name](), draw(8, 12)
    expected = weight + strength * (applied(tensors, weight) - weight)
    np.testing.assert_allclose(applied(tensors, weight, strength), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", RELATIVE)
def test_nothing_can_be_said_without_the_weight(name):
    found = delta(RELATIVE[name]())
    assert found.needs_base
    with pytest.raises(NeedsBase, match="--base"):
        found.matrix()


@pytest.mark.parametrize("name", sorted(RELATIVE.keys() - {"ia3"}))
def test_a_bias_difference_is_carried_beside_every_algorithm(name):
    bias = draw(8)
    assert delta(RELATIVE[name]()).bias() is None
    close(delta(RELATIVE[name]() | {R.DIFF_B: held(bias)}).bias().numpy(), bias)


@pytest.mark.parametrize("name", ["oft", "oft of peft", "boft", "boft of peft", "glora", "set_weight"])
def test_shapes_that_do_not_fit_the_weight_are_broken(name):
    with pytest.raises(BrokenAdapter, match="do not fit together"):
        applied(RELATIVE[name](), draw(7, 11))
