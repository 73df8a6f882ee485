"""Which algorithm a module's roles spell, what is missing, its rank, its scale and the weight that it fits: from shapes alone."""

import math
from fractions import Fraction

import pytest

from adapterhub.adapter import Role
from adapterhub.algorithms import (
    ALGORITHMS,
    BY_NAME,
    OTHERS,
    algorithm_of,
    extent,
    fits,
    label,
    missing,
    old_glora,
    rank_of,
    scale_of,
    surplus,
    total_scale,
)
from adapterhub.tensors import LazyTensor, scalar

R = Role
LORA = {R.DOWN: (4, 320), R.UP: (640, 4)}
CONV = {R.DOWN: (4, 320, 3, 3), R.UP: (640, 4, 1, 1)}
TUCKER = {R.DOWN: (4, 320, 1, 1), R.MID: (4, 4, 3, 3), R.UP: (640, 4, 1, 1)}
LOHA = {R.HADA_W1_A: (640, 4), R.HADA_W1_B: (4, 320), R.HADA_W2_A: (640, 4), R.HADA_W2_B: (4, 320)}
LOHA_TUCKER = {R.HADA_W1_A: (4, 640), R.HADA_W1_B: (4, 320), R.HADA_T1: (4, 4, 3, 3),
               R.HADA_W2_A: (4, 640), R.HADA_W2_B: (4, 320), R.HADA_T2: (4, 4, 3, 3)}  # fmt: skip
W1, W1_AB = {R.LOKR_W1: (20, 16)}, {R.LOKR_W1_A: (20, 3), R.LOKR_W1_B: (3, 16)}
W2, W2_AB = {R.LOKR_W2: (32, 20)}, {R.LOKR_W2_A: (32, 4), R.LOKR_W2_B: (4, 20)}
W2_CONV = {R.LOKR_W2: (32, 20, 3, 3)}
W2_AB_CONV = {R.LOKR_W2_A: (32, 4), R.LOKR_W2_B: (4, 180)}
W2_CORE = {R.LOKR_W2_A: (4, 32), R.LOKR_W2_B: (4, 20), R.LOKR_T2: (4, 4, 3, 3)}
GLORA = {R.GLORA_A1: (320, 4), R.GLORA_A2: (4, 320), R.GLORA_B1: (640, 4), R.GLORA_B2: (4, 320)}
GLORA_OLD = {R.GLORA_A1: (4, 320), R.GLORA_A2: (320, 4), R.GLORA_B1: (4, 320), R.GLORA_B2: (640, 4)}
IA3 = {R.IA3_WEIGHT: (640,), R.ON_INPUT: ()}

# tensors, algorithm, label, rank, the weight as (rows, columns) as far as the shapes tell
WHOLE = {
    "lora": (LORA, "lora", "lora", 4, (640, 320)),
    "lora of a 1×1 convolution": ({R.DOWN: (4, 320, 1, 1), R.UP: (640, 4, 1, 1)}, "lora", "lora", 4, (640, 320)),
    "locon": (CONV, "lora", "locon", 4, (640, 2880)),
    "locon with mid": (TUCKER, "lora", "locon", 4, (640, 2880)),
    "adalora": ({**LORA, R.ADALORA_E: (4, 1)}, "lora", "lora", 4, (640, 320)),
    "dora": ({**LORA, R.DORA_SCALE: (640, 1)}, "lora", "lora+dora", 4, (640, 320)),
    "dora of a convolution": ({**CONV, R.DORA_SCALE: (1, 320, 1, 1)}, "lora", "locon+dora", 4, (640, 2880)),
    "sparse residual": (
        {**LORA, R.RESIDUAL_INDICES: (2, 7), R.RESIDUAL_VALUES: (7,), R.RESIDUAL_SIZE: (2,)}, "lora", "lora", 4, (640, 320),
    ),
    "loha": (LOHA, "loha", "loha", 4, (640, 320)),
    "loha with cores": (LOHA_TUCKER, "loha", "loha", 4, (640, 2880)),
    "loha with dora": ({**LOHA, R.DORA_SCALE: (640, 1)}, "loha", "loha+dora", 4, (640, 320)),
    "lokr, both whole": (W1 | W2, "lokr", "lokr", None, (640, 320)),
    "lokr, left split": (W1_AB | W2, "lokr", "lokr", 3, (640, 320)),
    "lokr, right split": (W1 | W2_AB, "lokr", "lokr", 4, (640, 320)),
    "lokr, both split": (W1_AB | W2_AB, "lokr", "lokr", 4, (640, 320)),
    "lokr over a kernel": (W1 | W2_CONV, "lokr", "lokr", None, (640, 2880)),
    "lokr over a kernel, right split": (W1 | W2_AB_CONV, "lokr", "lokr", 4, (640, 2880)),
    "lokr with a core": (W1 | W2_CORE, "lokr", "lokr", 4, (640, 2880)),
    "lokr with a core, both split": (W1_AB | W2_CORE, "lokr", "lokr", 4, (640, 2880)),
    "ia3": (IA3, "ia3", "ia3", None, (None, None)),
    "PEFT's ia3": ({R.IA3_L: (640, 1)}, "ia3", "ia3", None, (640, None)),
    "PEFT's ia3 on the input": ({R.IA3_L: (1, 320)}, "ia3", "ia3", None, (None, 320)),
    "PEFT's ia3 of a convolution": ({R.IA3_L: (1, 640, 1, 1)}, "ia3", "ia3", None, (None, None)),
    "oft": ({R.OFT_BLOCKS: (80, 8, 8), R.ALPHA: (), R.RESCALE: (640, 1)}, "oft", "oft", None, (640, None)),
    "oft of 2023": ({R.OFT_DIAG: (80, 8, 8)}, "oft", "oft", None, (640, None)),
    "PEFT's oft": ({R.OFT_R: (40, 28)}, "oft", "oft", None, (None, 320)),
    "PEFT's oft with one block for all": ({R.OFT_R: (1, 28)}, "oft", "oft", None, (None, None)),
    "OneTrainer's oft": ({R.OFT_R: (40, 28), R.OFT_SCALED: ()}, "oft", "oft", None, (None, 320)),
    "boft": ({R.OFT_BLOCKS: (3, 80, 8, 8), R.ALPHA: ()}, "boft", "boft", None, (640, None)),
    "PEFT's boft": ({R.BOFT_R: (2, 40, 8, 8), R.BOFT_S: (640, 1)}, "boft", "boft", None, (None, 320)),
    "glora": (GLORA, "glora", "glora", 4, (640, 320)),
    "glora before LyCORIS 2.2": (GLORA_OLD, "glora", "glora", 4, (640, 320)),
    "glora over a kernel": ({**GLORA, R.GLORA_B2: (4, 320, 3, 3)}, "glora", "glora", 4, (640, 2880)),
    "full": ({R.DIFF: (640, 320, 3, 3), R.DIFF_B: (640,)}, "full", "full", None, (640, 2880)),
    "full of a norm": ({R.DIFF: (640,)}, "full", "full", None, (640, 1)),
    "full, replaced": ({R.SET_WEIGHT: (640, 320)}, "full", "full", None, (640, 320)),
    "only a bias": ({R.DIFF_B: (640,)}, "full", "full", None, (640, None)),
    "norm": ({R.W_NORM: (640,), R.B_NORM: (640,)}, "norm", "norm", None, (640, 1)),
}  # fmt: skip


def roles(shapes: dict[Role, tuple[int, ...]], **scalars: float) -> dict[Role, LazyTensor]:
    """Tensors of given shapes that must not be read, and scalars by their role's name."""
    tensors = {
        role: LazyTensor("F16", shape, lambda: pytest.fail("a factor was read")) for role, shape in shapes.items()
    }
    return tensors | {Role[name.upper()]: scalar(value) for name, value in scalars.items()}


CASES = pytest.mark.parametrize(("shapes", "name", "shown", "rank", "weight"), WHOLE.values(), ids=WHOLE.keys())


@CASES
def test_roles_and_shapes_tell_the_algorithm(shapes, name, shown, rank, weight):
    tensors = roles(shapes)
    algorithm = algorithm_of(tensors)
    assert (algorithm.name, label(tensors, algorithm)) == (name, shown)
    assert (missing(tensors, algorithm), surplus(tensors, algorithm)) == (frozenset(), frozenset())


@CASES
def test_shapes_tell_the_rank_and_the_weight(shapes, name, shown, rank, weight):
    assert rank_of(roles(shapes)) == rank
    assert extent(roles(shapes)) == weight
    columns = (320, 3, 3) if weight[1] == 2880 else (320,)
    assert fits(extent(roles(shapes)), (640, *columns) if weight != (640, 1) else (640,))
    if weight[0]:
        assert not fits(extent(roles(shapes)), (641, *columns))
    if weight[1]:
        assert not fits(extent(roles(shapes)), (640, 321))


@pytest.mark.parametrize(("lacking", "role"), [
    (LORA, R.UP), (LORA, R.DOWN), (LOHA, R.HADA_W1_A), (LOHA, R.HADA_W2_B), (W1 | W2, R.LOKR_W1), (W1 | W2, R.LOKR_W2),
    (W1_AB | W2, R.LOKR_W1_B), (W1 | W2_AB, R.LOKR_W2_A), (W1_AB | W2_CORE, R.LOKR_W2_B), (IA3, R.ON_INPUT),
    (GLORA, R.GLORA_A2), (GLORA_OLD, R.GLORA_B1),
])  # fmt: skip
def test_what_half_a_module_lacks_is_named(lacking, role):
    tensors = roles({other: shape for other, shape in lacking.items() if other is not role})
    assert missing(tensors, algorithm_of(tensors)) in ({role}, {R.LOKR_W2, role} - {role})


@pytest.mark.parametrize(("shapes", "useless"), [
    ({**LORA, R.DIFF: (640, 320)}, R.DIFF), ({**LOHA, R.MID: (4, 4, 3, 3)}, R.MID), ({**LORA, R.OFT_BLOCKS: (8, 80, 80)}, R.OFT_BLOCKS),
    ({R.DIFF: (640, 320), R.W_NORM: (640,)}, R.W_NORM), ({**GLORA, R.DORA_SCALE: (640, 1)}, R.DORA_SCALE),
])  # fmt: skip
def test_a_role_that_an_algorithm_has_no_use_for_is_named(shapes, useless):
    tensors = roles(shapes)
    assert surplus(tensors, algorithm_of(tensors)) == {useless}


@pytest.mark.parametrize("shapes", [{R.ALPHA: ()}, {R.DORA_SCALE: (640, 1)}, {}])
def test_alpha_or_a_magnitude_alone_call_for_no_algorithm(shapes):
    assert algorithm_of(roles(shapes)) is None
    assert extent(roles(shapes)) == (None, None)


def test_an_embedding_that_travels_along_is_no_algorithm_of_a_module():
    assert algorithm_of(roles({R.VECTORS: (2, 768)})) is OTHERS[0]
    assert not {*OTHERS} & {*ALGORITHMS}


def test_lycoris_order_decides_between_algorithms():
    """lycoris/modules/__init__.py, get_module: the first whose weight is there."""
    every = roles(
        {**LORA, **LOHA, **IA3, **W1, **W2, R.DIFF: (640, 320), R.W_NORM: (640,), R.OFT_BLOCKS: (80, 8, 8), **GLORA}
    )
    for name in ("lora", "loha", "ia3", "lokr", "full", "norm", "oft", "glora"):
        assert algorithm_of(every).name == name
        every = {
            role: tensor
            for role, tensor in every.items()
            if role not in BY_NAME[name].markers - BY_NAME["full"].optional
        }


@pytest.mark.parametrize(("shapes", "old"), [
    (GLORA, False), (GLORA_OLD, True),
    ({R.GLORA_A1: (320, 4), R.GLORA_A2: (4, 320), R.GLORA_B1: (320, 4), R.GLORA_B2: (4, 320)}, False),
    ({R.GLORA_A1: (4, 320), R.GLORA_A2: (320, 4), R.GLORA_B1: (4, 320), R.GLORA_B2: (320, 4)}, True),
    (dict.fromkeys((R.GLORA_A1, R.GLORA_A2, R.GLORA_B1, R.GLORA_B2), (4, 4)), True),
])  # fmt: skip
def test_shapes_tell_old_glora_from_new(shapes, old):
    assert old_glora(roles(shapes)) is old


@pytest.mark.parametrize(("tensors", "scale"), [
    (roles(LORA), 1), (roles(LORA, alpha=1), Fraction(1, 4)), (roles(LORA, alpha=0), 0), (roles(LORA, alpha=-2), Fraction(-1, 2)),
    (roles(LORA, scale=0.5, alpha=1), Fraction(1, 2)), (roles({R.DOWN: (0, 320), R.UP: (640, 0)}, alpha=1), 0),
    (roles(W1 | W2, alpha=1), 1), (roles(W1_AB | W2, alpha=1), Fraction(1, 3)), (roles(W1_AB | W2_AB, alpha=1), Fraction(1, 4)),
    (roles(GLORA, alpha=1), Fraction(1, 4)), (roles(GLORA_OLD, alpha=1), Fraction(1, 4)), (roles({R.DIFF: (2, 2)}, alpha=8), 1),
])  # fmt: skip
def test_the_scale_is_alpha_over_rank_or_what_replaces_it(tensors, scale):
    assert scale_of(tensors) == total_scale(tensors) == scale


def test_a_third_is_a_third():
    tensors = roles({R.DOWN: (3, 320), R.UP: (640, 3)}, alpha=1)
    assert scale_of(tensors) * 3 == 1


@pytest.mark.parametrize(("alpha", "factor", "total"), [(2, 3, Fraction(3, 2)), (4, 0, 0), (1, -0.5, Fraction(-1, 8))])
def test_a_scalar_multiplies_the_scale(alpha, factor, total):
    tensors = roles(LORA, alpha=alpha, scalar=factor)
    assert (scale_of(tensors), total_scale(tensors)) == (Fraction(alpha, 4), total)


@pytest.mark.parametrize("alpha", [math.inf, -math.inf, math.nan])
def test_an_alpha_that_is_not_finite_is_given_as_it_is(alpha):
    for found in (scale_of(roles(LORA, alpha=alpha)), total_scale(roles(LORA, alpha=alpha))):
        assert found == alpha or (math.isnan(found) and math.isnan(alpha))
    assert total_scale(roles(LORA, alpha=1, scalar=math.inf)) == math.inf


@pytest.mark.parametrize("shapes", [
    {R.UP: (), R.DOWN: ()}, {R.HADA_W1_A: (640,), R.HADA_W1_B: (4,)}, {R.LOKR_W1: (20,), R.LOKR_W2: (32, 20)},
    {R.OFT_R: (7,)}, {R.OFT_BLOCKS: (8,)}, {R.BOFT_R: (2,)}, {R.GLORA_B1: (640, 4)}, {R.W_NORM: ()},
])  # fmt: skip
def test_shapes_that_are_no_weights_tell_nothing(shapes):
    assert extent(roles(shapes)) == (None, None)
