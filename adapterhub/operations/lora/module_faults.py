"""What is wrong with one module by the shapes of its tensors: halves, strangers, impossible axes, ranks that do not meet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from adapterhub.adapter import Module, Role, Roles
from adapterhub.algorithms import Algorithm, algorithm_of, missing, rank_of, surplus
from adapterhub.documents import Problem
from adapterhub.operations.problems import error, warning
from adapterhub.tensors import FLOATS, LazyTensor

R = Role
_DOWN, _UP, _ALPHA = R.DOWN, R.UP, R.ALPHA  # see algorithms.py

_SCALES = (R.ALPHA, R.SCALE, R.SCALAR)
_NUMBER = frozenset({*_SCALES, R.ON_INPUT, R.OFT_SCALED, R.OFT_TERMS})
_NUMBERS = FLOATS | {"BOOL", "I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64"}

# How many axes a tensor of a role may have (adapter.Role has the shapes); factors of a weight have two to five.
_FACTOR = range(2, 6)
_ANY, _VECTOR, _MATRIX = range(1, 6), range(1, 2), range(2, 3)
_AXES: Mapping[Role, range] = {
    **dict.fromkeys((R.DIFF, R.SET_WEIGHT, R.RESIDUAL, R.DORA_SCALE, R.RESCALE, R.IA3_WEIGHT, R.IA3_L, R.BOFT_S), _ANY),
    **dict.fromkeys((R.DIFF_B, R.UP_BIAS, R.W_NORM, R.B_NORM, R.RESIDUAL_VALUES, R.RESIDUAL_SIZE), _VECTOR),
    **dict.fromkeys((R.LOKR_W1, R.LOKR_W1_A, R.LOKR_W1_B, R.OFT_R, R.RESIDUAL_INDICES), _MATRIX),
    **dict.fromkeys((R.MID, R.HADA_T1, R.HADA_T2, R.LOKR_T2), range(3, 6)),
    R.OFT_DIAG: range(3, 4), R.OFT_BLOCKS: range(3, 5), R.BOFT_R: range(4, 5),
    R.ADALORA_E: range(1, 3), R.VECTORS: range(1, 3),
}  # fmt: skip


def is_plain(tensors: Roles) -> bool:
    """Whether a module is a pair whose ranks meet, with a proper alpha or none: most are, and have no fault to look for."""
    down, up, alpha = tensors.get(_DOWN), tensors.get(_UP), tensors.get(_ALPHA)
    if (
        down is None
        or up is None
        or len(tensors) > (2 if alpha is None else 3)
        or len(up.shape) not in _FACTOR
        or len(down.shape) not in _FACTOR
    ):
        return False
    return 0 < down.shape[0] == up.shape[1] and (alpha is None or is_number(alpha))


def module_faults(module: Module, tensors: Roles) -> Iterator[Problem]:
    """What is wrong with the tensors of one module, by their shapes."""
    where = ".".join(module)
    algorithm = algorithm_of(tensors)
    if algorithm is None:
        roles = ", ".join(sorted(tensors))
        yield error(
            "orphan-key", where, f"{roles} without the tensors that it belongs to", "The file was cut or edited."
        )
        return
    if lacking := missing(tensors, algorithm):
        yield error("missing-pair", where, f"{algorithm.name} without {', '.join(sorted(lacking))}",
                     "Half a module does nothing: get the whole file, or --allow-loss leaves it out.")  # fmt: skip
        return
    if left := surplus(tensors, algorithm):
        yield error("orphan-key", where, f"{algorithm.name} has no use for {', '.join(sorted(left))}")
    if impossible := list(_shapes(where, tensors)):
        yield from impossible
        return
    yield from _ranks(where, tensors, algorithm)


def _shapes(where: str, tensors: Roles) -> Iterator[Problem]:
    for role, tensor in tensors.items():
        if role in _NUMBER:
            if not is_number(tensor):
                yield error(
                    "alpha-shape" if role in _SCALES else "impossible-shape",
                    where,
                    f"{_told(role, tensor)}, and must be one number",
                )
        elif len(tensor.shape) not in _AXES.get(role, _FACTOR) or tensor.dtype not in _NUMBERS:
            yield error("impossible-shape", where, f"{_told(role, tensor)}, which no {role} is", "The file is damaged.")


def _told(role: Role, tensor: LazyTensor) -> str:
    return f"{role} is {tensor.dtype} {list(tensor.shape)}"


def _ranks(where: str, tensors: Roles, algorithm: Algorithm) -> Iterator[Problem]:
    for left, left_axis, right, right_axis, without in _MEETING.get(algorithm.name, ()):
        if left not in tensors or right not in tensors or without in tensors:
            continue
        a, b = tensors[left].shape, tensors[right].shape
        if a[left_axis] != b[right_axis]:
            yield error("rank-mismatch", where, f"{left} has rank {a[left_axis]}, {right} has rank {b[right_axis]}",
                        "The halves come from different files.")  # fmt: skip
    if rank_of(tensors) == 0:
        yield warning("rank-zero", where, "rank 0: it does nothing")


# (factor, axis, factor, axis): the axes along which two factors meet; not so where the core that follows stands between.
_MEETING: Mapping[str, tuple[tuple[Role, int, Role, int, Role | None], ...]] = {
    "lora": (
        (R.UP, 1, R.DOWN, 0, R.MID), (R.UP, 1, R.MID, 0, None), (R.MID, 1, R.DOWN, 0, None),
    ),
    "loha": (
        (R.HADA_W1_A, 1, R.HADA_W1_B, 0, R.HADA_T1), (R.HADA_W2_A, 1, R.HADA_W2_B, 0, R.HADA_T2),
        (R.HADA_W1_A, 0, R.HADA_T1, 0, None), (R.HADA_T1, 1, R.HADA_W1_B, 0, None),
        (R.HADA_W2_A, 0, R.HADA_T2, 0, None), (R.HADA_T2, 1, R.HADA_W2_B, 0, None),
    ),
    "lokr": (
        (R.LOKR_W1_A, 1, R.LOKR_W1_B, 0, None), (R.LOKR_W2_A, 1, R.LOKR_W2_B, 0, R.LOKR_T2),
        (R.LOKR_W2_A, 0, R.LOKR_T2, 0, None), (R.LOKR_T2, 1, R.LOKR_W2_B, 0, None),
    ),
}  # fmt: skip


def is_number(tensor: LazyTensor) -> bool:
    """Whether a tensor holds a single number, of a dtype that is computed with."""
    return (not tensor.shape or tensor.size == 1) and tensor.dtype in _NUMBERS
