"""Which tensors of a module do not fit a weight, by their shapes alone: known before a number is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

from adapterhub.adapter import Role, Roles
from adapterhub.algorithms import algorithm_of, extent, fits, old_glora, scales_input
from adapterhub.errors import BrokenAdapter
from adapterhub.tensors import Shape, item

R = Role


def misfit(tensors: Roles, weight: Shape) -> str | None:
    """What does not fit a weight, as the beginning of a sentence: the module, or some tensors of it; None where all fits."""
    wrong = unfit(tensors, weight)
    if not wrong:
        return None
    return "does not fit" if set(wrong) >= _changing(tensors) else f"its {_told(tensors, wrong)} does not fit"


def unfit(tensors: Roles, weight: Shape) -> list[Role]:
    """The roles that cannot change a weight of shape `weight`; empty where all can. Of LyCORIS' IA3 the flag is read."""
    algorithm = algorithm_of(tensors)
    changing = [role for role in tensors if role in _changing(tensors)]
    if algorithm is None or not changing or not weight:
        return changing
    try:
        found = list(_CHECKS[algorithm.name](tensors, weight))
        along_channels = algorithm.name == "ia3"  # whatever the kernel, whose positions an extent counts
        if not found and not along_channels and not fits(extent(tensors), weight):
            found = changing
        found += [role for role, length in _beside(weight).items() if role in tensors and tensors[role].size != length]
        if R.DORA_SCALE in tensors and on_output(tensors[R.DORA_SCALE].shape, weight) is None:
            found.append(R.DORA_SCALE)
    except (KeyError, IndexError, ValueError, ZeroDivisionError):  # too few axes to say anything of them
        return changing
    return list(dict.fromkeys(found))


def require_fitting(tensors: Roles, weight: Shape) -> None:
    """Raises BrokenAdapter that names the tensors which do not fit; a magnitude has words of its own."""
    if wrong := [role for role in unfit(tensors, weight) if role is not R.DORA_SCALE]:
        raise BrokenAdapter(
            f"the shapes of a module do not fit together with a weight of {list(weight)}: {_told(tensors, wrong)}"
        )


def _changing(tensors: Roles) -> frozenset[Role]:
    """The roles that make the change of the weight."""
    algorithm = algorithm_of(tensors)
    return frozenset() if algorithm is None else (algorithm.markers & tensors.keys()) - {R.DIFF_B, R.B_NORM, R.ON_INPUT}


def _told(tensors: Roles, wrong: Iterable[Role]) -> str:
    return ", ".join(f"{role} {list(tensors[role].shape)}" for role in wrong)


def on_output(magnitude: Shape, weight: Shape) -> bool | None:
    """Whether a magnitude lies on the output axis, by its own shape: (O, 1, …) or (O,) does, (1, I, …) does not.

    PEFT's (1, O, 1, 1) of a convolution counts as the output axis where O is not I. None where nothing fits.
    """
    outputs, inputs = weight[:2] if len(weight) > 1 else (weight[0], 1)
    size = max(magnitude, default=1)
    ones = sum(side == 1 for side in magnitude) >= len(magnitude) - 1
    if ones and size == outputs and magnitude[:1] == (outputs,):
        return True
    if ones and size == inputs and magnitude[:1] == (1,):
        return False
    return True if ones and size == outputs and magnitude[:2] == (1, outputs) else None


def ia3_on_input(tensors: Roles) -> bool:
    """Whether LyCORIS' IA3 runs along the input."""
    return bool(item(tensors[R.ON_INPUT]))


def _beside(weight: Shape) -> dict[Role, int]:
    """How many numbers what stands beside a change has."""
    rows, size = weight[0], math.prod(weight)
    return {R.RESCALE: rows, R.BOFT_S: rows, R.RESIDUAL: size}


def _alike(kernel: Shape, other: Shape) -> bool:
    """Whether two kernels are one: a linear layer is a convolution of a single position."""
    return kernel == other or math.prod(kernel) == math.prod(other) == 1


def _lora(s: Roles, weight: Shape) -> Iterator[Role]:
    up, down = s[R.UP].shape, s[R.DOWN].shape
    if math.prod(up[2:]) != 1:
        yield R.UP
    if R.MID in s and math.prod(down[2:]) != 1:
        yield R.DOWN
    kernel = s[R.MID].shape[2:] if R.MID in s else down[2:]
    if math.prod(kernel) != 1 and kernel != weight[2:]:
        yield R.MID if R.MID in s else R.DOWN
    if R.ADALORA_E in s and s[R.ADALORA_E].size != down[0]:
        yield R.ADALORA_E
    if R.RESIDUAL_INDICES in s:
        count = s[R.RESIDUAL_VALUES].size
        if s[R.RESIDUAL_INDICES].shape != (2, count):
            yield R.RESIDUAL_INDICES


def _loha(s: Roles, weight: Shape) -> Iterator[Role]:
    rows, columns = weight[0], math.prod(weight[1:])
    for a, b, core in ((R.HADA_W1_A, R.HADA_W1_B, R.HADA_T1), (R.HADA_W2_A, R.HADA_W2_B, R.HADA_T2)):
        outer, inner = s[a].shape, s[b].shape
        if (R.HADA_T1 in s) != (R.HADA_T2 in s):
            yield core if core in s else a
        elif core in s:
            if outer[1:] != (rows,):
                yield a
            if inner[1:] != weight[1:2]:
                yield b
            if not _alike(s[core].shape[2:], weight[2:]):
                yield core
        else:
            if outer[0] != rows or len(outer) != 2:
                yield a
            if math.prod(inner[1:]) != columns:
                yield b


def _lokr(s: Roles, weight: Shape) -> Iterator[Role]:
    role = R.LOKR_W2 if R.LOKR_W2 in s else R.LOKR_T2
    if role not in s:
        return
    kernel = s[role].shape[2:]
    if not _alike(kernel, weight[2:]) and (math.prod(kernel) != 1 or role is R.LOKR_T2):
        yield role


def _ia3(s: Roles, weight: Shape) -> Iterator[Role]:
    if R.IA3_L in s:
        role, on_input = R.IA3_L, scales_input(s[R.IA3_L], weight[0])
    else:
        role, on_input = R.IA3_WEIGHT, ia3_on_input(s)
    if s[role].size != (weight[1] if on_input else weight[0]):
        yield role


def _rotation(s: Roles, weight: Shape) -> Iterator[Role]:
    for role in (R.OFT_BLOCKS, R.OFT_DIAG):
        if role in s:
            *_, number, size, other = s[role].shape
            if size != other or number * size != weight[0]:
                yield role
    if R.OFT_R in s:
        number, entries = s[R.OFT_R].shape
        size, columns = (1 + math.isqrt(1 + 8 * entries)) // 2, math.prod(weight[1:])
        if size * (size - 1) // 2 != entries or columns % size or number not in (1, columns // size):
            yield R.OFT_R


def _butterfly(s: Roles, weight: Shape) -> Iterator[Role]:
    role, length = (R.BOFT_R, math.prod(weight[1:])) if R.BOFT_R in s else (R.OFT_BLOCKS, weight[0])
    stages, number, size, other = s[role].shape
    met = size << max(stages - 1, 0)
    if size != other or number * size != length or (size % 2 and (stages > 1 or role is R.OFT_BLOCKS)) or length % met:
        yield role


def _glora(s: Roles, weight: Shape) -> Iterator[Role]:
    a1, a2, b1, b2 = (R.GLORA_A1, R.GLORA_A2, R.GLORA_B1, R.GLORA_B2)
    if old_glora(s):
        a1, a2, b1, b2 = a2, a1, b2, b1
    sides = {role: (s[role].shape[0], math.prod(s[role].shape[1:])) for role in (a1, a2, b1, b2)}
    for left, right, rows, columns in ((a1, a2, weight[1], weight[1]), (b1, b2, weight[0], math.prod(weight[1:]))):
        if sides[left][0] != rows:
            yield left
        if sides[right][1] != columns or sides[left][1] != sides[right][0]:
            yield right


def _difference(s: Roles, weight: Shape) -> Iterator[Role]:
    for role in (R.DIFF, R.SET_WEIGHT):
        if role in s and (s[role].shape[0] != weight[0] or s[role].size != math.prod(weight)):
            yield role


def _norm(s: Roles, weight: Shape) -> Iterator[Role]:
    if R.W_NORM in s and s[R.W_NORM].size != math.prod(weight):
        yield R.W_NORM


_CHECKS: Mapping[str, Callable[[Roles, Shape], Iterator[Role]]] = {
    "lora": _lora, "loha": _loha, "lokr": _lokr, "ia3": _ia3, "oft": _rotation, "boft": _butterfly, "glora": _glora,
    "full": _difference, "norm": _norm,
}  # fmt: skip
