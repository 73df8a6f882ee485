"""Which algorithm a module's roles spell, what is missing, its rank, its scale and its extent: all from shapes.

The arithmetic is in `operations/deltas`. Names are those of contract.md; `+dora` marks a magnitude beside them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from adapterhub.adapter import Role, Roles
from adapterhub.tensors import LazyTensor, Shape, item, ratio

Extent = tuple[int | None, int | None]
"""(rows, columns) of the weight that a module changes, kernel positions counted as columns; None where it cannot tell."""

R = Role
# Python 3.11 takes three times as long to find a member of an enumeration as to look for it in a dictionary.
_UP, _DOWN, _MID, _OFT_BLOCKS, _DORA_SCALE = R.UP, R.DOWN, R.MID, R.OFT_BLOCKS, R.DORA_SCALE


class Algorithm(NamedTuple):
    """One row: any of `markers` calls for it; one of `complete` must then be there; `optional` may.

    `factors` are groups of roles that multiply: alpha / rank scales each group once, and a power of two may move
    freely inside a group. Empty where ΔW is not a product.
    """

    name: str
    complete: tuple[frozenset[Role], ...]
    optional: frozenset[Role] = frozenset()
    factors: tuple[tuple[Role, ...], ...] = ()
    needs_base: bool = False

    @property
    def markers(self) -> frozenset[Role]:
        return frozenset().union(*self.complete)


def _sets(*roles: Iterable[Role]) -> tuple[frozenset[Role], ...]:
    return tuple(map(frozenset, roles))


_COMMON = frozenset({R.ALPHA, R.SCALAR, R.SCALE, R.DIFF_B, R.DORA_SCALE})
_RESIDUAL = frozenset({R.RESIDUAL_INDICES, R.RESIDUAL_VALUES, R.RESIDUAL_SIZE, R.RESIDUAL})
_LOKR = [
    {*left, *right}
    for left in ({R.LOKR_W1}, {R.LOKR_W1_A, R.LOKR_W1_B})
    for right in ({R.LOKR_W2}, {R.LOKR_W2_A, R.LOKR_W2_B}, {R.LOKR_W2_A, R.LOKR_W2_B, R.LOKR_T2})
]

# In the order in which LyCORIS asks (lycoris/modules/__init__.py): a module with roles of two rows is the first one's.
ALGORITHMS = (
    Algorithm("lora", _sets({R.DOWN, R.UP}), _COMMON | _RESIDUAL | {R.MID, R.UP_BIAS, R.ADALORA_E},
              ((R.UP, R.MID, R.ADALORA_E, R.DOWN, R.SCALAR),)),
    Algorithm("loha", _sets({R.HADA_W1_A, R.HADA_W1_B, R.HADA_W2_A, R.HADA_W2_B}),
              _COMMON | {R.HADA_T1, R.HADA_T2},
              ((R.HADA_W1_A, R.HADA_T1, R.HADA_W1_B, R.HADA_W2_A, R.HADA_T2, R.HADA_W2_B, R.SCALAR),)),
    Algorithm("ia3", _sets({R.IA3_WEIGHT, R.ON_INPUT}, {R.IA3_L}), frozenset({R.ALPHA, R.DIFF_B}), needs_base=True),
    Algorithm("lokr", _sets(*_LOKR), _COMMON,
              ((R.LOKR_W1, R.LOKR_W1_A, R.LOKR_W1_B, R.LOKR_W2, R.LOKR_W2_A, R.LOKR_T2, R.LOKR_W2_B, R.SCALAR),)),
    Algorithm("full", _sets({R.DIFF}, {R.DIFF_B}, {R.SET_WEIGHT}), frozenset({R.ALPHA, R.DIFF_B})),
    Algorithm("norm", _sets({R.W_NORM}, {R.B_NORM}, {R.W_NORM, R.B_NORM}), frozenset({R.ALPHA})),
    Algorithm("oft", _sets({R.OFT_BLOCKS}, {R.OFT_DIAG}, {R.OFT_R}),
              frozenset({R.ALPHA, R.RESCALE, R.OFT_SCALED, R.OFT_TERMS, R.DIFF_B}), needs_base=True),
    Algorithm("boft", _sets({R.OFT_BLOCKS}, {R.BOFT_R, R.BOFT_S}, {R.BOFT_R}), frozenset({R.ALPHA, R.RESCALE, R.DIFF_B}),
              needs_base=True),
    Algorithm("glora", _sets({R.GLORA_A1, R.GLORA_A2, R.GLORA_B1, R.GLORA_B2}), _COMMON - {R.DORA_SCALE},
              ((R.GLORA_A1, R.GLORA_A2), (R.GLORA_B1, R.GLORA_B2)), needs_base=True),
)  # fmt: skip
OTHERS = (
    Algorithm("embedding", _sets({R.VECTORS}, {R.OUTPUT_VECTORS}, {R.VECTORS, R.OUTPUT_VECTORS})),
    Algorithm("layer", _sets({R.LAYER_WEIGHT}, {R.LAYER_WEIGHT, R.LAYER_BIAS})),
)
"""No algorithms of modules: a token of an embedding, alone or inside a LoRA file; a layer of a hypernetwork."""

BY_NAME = {row.name: row for row in (*ALGORITHMS, *OTHERS)}
_MARKED = tuple((row, row.markers) for row in (*OTHERS, *ALGORITHMS))


def algorithm_of(tensors: Roles) -> Algorithm | None:
    """The row that the roles of one module call for, complete or not; None where only α or a magnitude is there."""
    if _OFT_BLOCKS in tensors and len(tensors[_OFT_BLOCKS].shape) == 4:
        return BY_NAME["boft"]
    return _called_for(tuple(tensors))


@lru_cache(maxsize=4096)
def _called_for(roles: tuple[Role, ...]) -> Algorithm | None:
    return next((row for row, markers in _MARKED if not markers.isdisjoint(roles)), None)


def missing(tensors: Roles, algorithm: Algorithm) -> frozenset[Role]:
    """The roles that the nearest complete set of `algorithm` has and the module lacks; empty where it is whole."""
    return _missing(tuple(tensors), algorithm.name)


@lru_cache(maxsize=4096)
def _missing(roles: tuple[Role, ...], name: str) -> frozenset[Role]:
    here = frozenset(roles)
    return min(BY_NAME[name].complete, key=lambda wanted: (len(wanted - here), -len(wanted))) - here


def surplus(tensors: Roles, algorithm: Algorithm) -> frozenset[Role]:
    """The roles that `algorithm` has no use for."""
    return _surplus(tuple(tensors), algorithm.name)


@lru_cache(maxsize=4096)
def _surplus(roles: tuple[Role, ...], name: str) -> frozenset[Role]:
    return frozenset(roles) - BY_NAME[name].markers - BY_NAME[name].optional


def label(tensors: Roles, algorithm: Algorithm) -> str:
    """The name that `inspect` shows: `locon` for a LoRA over a kernel, `+dora` where a magnitude stands beside it."""
    name = algorithm.name
    if name == "lora" and (_MID in tensors or _kernel(tensors) > 1):
        name = "locon"
    return f"{name}+dora" if _DORA_SCALE in tensors else name


_RANKED = (R.DOWN, R.HADA_W1_B, R.LOKR_W2_B, R.LOKR_W1_B)


def rank_of(tensors: Roles) -> int | None:
    """The rank that alpha is divided by (formats/lora.md §2); None where alpha scales nothing."""
    for role in _RANKED:
        if role in tensors:
            shape = tensors[role].shape
            return shape[0] if shape else None
    if all(role in tensors and len(tensors[role].shape) > 1 for role in BY_NAME["glora"].markers):
        return tensors[R.GLORA_B1].shape[0 if old_glora(tensors) else 1]
    return None


def scale_of(tensors: Roles) -> Fraction | float:
    """What multiplies the factors: SCALE if stored, else alpha / rank, else 1. NaN or infinity as stored.

    Raises ZeroDivisionError never: a rank of 0 gives 0, since its factors hold nothing.
    """
    if R.SCALE in tensors:
        return _exact(item(tensors[R.SCALE]))
    rank = rank_of(tensors)
    if R.ALPHA not in tensors or rank is None:
        return Fraction(1)
    alpha = item(tensors[R.ALPHA])
    if not math.isfinite(alpha):
        return alpha
    return ratio(alpha, rank) if rank else Fraction(0)


def total_scale(tensors: Roles) -> Fraction | float:
    """What multiplies the product of a module: `scale_of`, times SCALAR where one is stored."""
    scale = scale_of(tensors)
    if R.SCALAR not in tensors:
        return scale
    factor = _exact(item(tensors[R.SCALAR]))
    if isinstance(scale, Fraction) and isinstance(factor, Fraction):
        return scale * factor
    return float(scale) * float(factor)


def old_glora(tensors: Roles) -> bool:
    """Whether a GLoRA module has the shapes of LyCORIS before 2.2: a1 (r, I), a2 (I, r), b1 (r, I), b2 (O, r).

    The shapes of a square weight's factors can be read either way: the reading with the smaller rank is taken, and the
    old one where both have the same, as ComfyUI does.
    """
    a1, a2 = tensors[R.GLORA_A1].shape, tensors[R.GLORA_A2].shape
    b1, b2 = tensors[R.GLORA_B1].shape, tensors[R.GLORA_B2].shape
    old = len(b2) > 1 and b2[1] == b1[0] == a1[0] == a2[1]
    new = b2[0] == b1[1] == a1[1] == a2[0]
    return old and (not new or a1[0] <= a2[0])


def scales_input(multiplier: LazyTensor, rows: int) -> bool:
    """Whether PEFT's IA3 multiplier runs along the input of a weight of `rows` rows: (1, I), against (O, 1).

    A convolution's is (1, C, 1, 1) on both axes before its config is asked; where C is both O and I it is taken for the
    output.
    """
    shape = multiplier.shape
    return shape[0] == 1 < shape[1] if len(shape) == 2 else multiplier.size != rows


def extent(tensors: Roles) -> Extent:
    """The (rows, columns) of the weight that these tensors change, as far as their shapes tell."""
    for role, measure in _EXTENTS:
        if role in tensors:
            try:
                return measure(tensors)
            except (KeyError, IndexError, ValueError):
                return (None, None)
    return (None, None)


def length_along(tensors: Roles) -> int | None:
    """How many numbers an IA3 has that may run along either side of its weight, as far as its shape tells."""
    multiplier = tensors.get(R.IA3_L)
    if multiplier is not None:
        return multiplier.size if len(multiplier.shape) > 2 else None
    return tensors[R.IA3_WEIGHT].size if R.IA3_WEIGHT in tensors else None


def fits(measured: Extent, weight: Shape) -> bool:
    """Whether a measured extent agrees with a weight of shape `weight`."""
    rows, columns = measured
    return (rows is None or rows == weight[0]) and (columns is None or columns == math.prod(weight[1:]))


def _exact(value: float) -> Fraction | float:
    return Fraction(value) if math.isfinite(value) else value


def _kernel(tensors: Roles) -> int:
    shape = tensors[_DOWN].shape if _DOWN in tensors else ()
    return math.prod(shape[2:]) if len(shape) > 2 else 1


def _lora(s: Roles) -> Extent:
    up, down, mid = s.get(_UP), s.get(_DOWN), s.get(_MID)
    columns = None if down is None else math.prod(down.shape[1:])
    if columns is not None and mid is not None:
        columns *= math.prod(mid.shape[2:])
    return (None if up is None else up.shape[0], columns)


def _loha(s: Roles) -> Extent:
    if R.HADA_T1 in s:
        return (s[R.HADA_W1_A].shape[1], s[R.HADA_W1_B].shape[1] * math.prod(s[R.HADA_T1].shape[2:]))
    return (s[R.HADA_W1_A].shape[0], s[R.HADA_W1_B].shape[1])


def _lokr(s: Roles) -> Extent:
    o1, i1 = s[R.LOKR_W1].shape if R.LOKR_W1 in s else (s[R.LOKR_W1_A].shape[0], s[R.LOKR_W1_B].shape[1])
    if R.LOKR_W2 in s:
        o2, i2 = s[R.LOKR_W2].shape[0], math.prod(s[R.LOKR_W2].shape[1:])
    elif R.LOKR_T2 in s:
        o2, i2 = s[R.LOKR_W2_A].shape[1], s[R.LOKR_W2_B].shape[1] * math.prod(s[R.LOKR_T2].shape[2:])
    else:
        o2, i2 = s[R.LOKR_W2_A].shape[0], s[R.LOKR_W2_B].shape[1]
    return (o1 * o2, i1 * i2)


def _glora(s: Roles) -> Extent:
    b1, b2 = s[R.GLORA_B1].shape, s[R.GLORA_B2].shape
    return (b2[0], math.prod(b1[1:])) if old_glora(s) else (b1[0], math.prod(b2[1:]))


def _axis(shape: Shape) -> Extent:
    """A vector along the rows (O, 1) or the columns (1, I) of a weight; a convolution's (1, C, 1, 1) does not tell which."""
    if len(shape) == 2 and shape[0] == 1 < shape[1]:
        return (None, shape[1])
    return (None, None) if len(shape) > 2 else (shape[0], None)


def _oft_input(s: Roles) -> Extent:
    """n rows of b(b-1)/2 entries turn n·b columns; a single row may be shared by all blocks (PEFT's `block_share`)."""
    number, entries = s[R.OFT_R].shape
    return (None, number * (1 + math.isqrt(1 + 8 * entries)) // 2 if number > 1 else None)


_EXTENTS: tuple[tuple[Role, Callable[[Roles], Extent]], ...] = (
    (R.UP, _lora), (R.DOWN, _lora), (R.HADA_W1_A, _loha),
    (R.LOKR_W1, _lokr), (R.LOKR_W1_A, _lokr),
    (R.DIFF, lambda s: (s[R.DIFF].shape[0], math.prod(s[R.DIFF].shape[1:]))),
    (R.SET_WEIGHT, lambda s: (s[R.SET_WEIGHT].shape[0], math.prod(s[R.SET_WEIGHT].shape[1:]))),
    (R.OFT_BLOCKS, lambda s: (s[R.OFT_BLOCKS].shape[-3] * s[R.OFT_BLOCKS].shape[-1], None)),
    (R.OFT_DIAG, lambda s: (s[R.OFT_DIAG].shape[0] * s[R.OFT_DIAG].shape[-1], None)),
    (R.OFT_R, _oft_input),
    (R.BOFT_R, lambda s: (None, s[R.BOFT_R].shape[1] * s[R.BOFT_R].shape[-1])),
    (R.GLORA_B1, _glora),
    (R.IA3_L, lambda s: _axis(s[R.IA3_L].shape)),
    (R.W_NORM, lambda s: (s[R.W_NORM].shape[0], 1)),
    (R.DIFF_B, lambda s: (s[R.DIFF_B].shape[0], None)),
)  # fmt: skip
