"""A sketch of what an adapter does: a few hundred numbers whose angles are those of the changes themselves.

Number j is ⟨Rⱼ, ΔW⟩ over all modules, Rⱼ a fixed matrix of random signs; then E[s·s′] / DIMENSIONS = ⟨ΔW, ΔW′⟩, and the cosine of
two sketches is that of two adapters, give or take 1/√DIMENSIONS (Johnson and Lindenstrauss, 1984; signs: Achlioptas, 2003). Each
Rⱼ is u·vᵀ in a module, so that factors are never multiplied out. The same adapter in another layout, at another rank or in another
dtype has nearly the same sketch; epochs of one training have similar ones.

What depends on the base's weights (DoRA's magnitude, OFT, BOFT, IA3, GLoRA) is sketched by its tensors, which are comparable as
long as the algorithm is the same. It takes numpy and no torch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from adapterhub.adapter import Adapter, Kind, Role, Roles
from adapterhub.algorithms import algorithm_of, total_scale
from adapterhub.fingerprint import named
from adapterhub.tensors import FLOATS, LazyTensor, values

if TYPE_CHECKING:
    import numpy as np

DIMENSIONS = 256
VERSION = "adapterhub sketch 1"
MOST_WORK = 4e11
"""Multiplications above which there is no sketch: a minute on one core."""
_KEPT = 64
"""Matrices of signs that are kept, a quarter of a MB each for the widths of SDXL."""
R = Role


def sketch(adapter: Adapter) -> bytes | None:
    """DIMENSIONS float32 numbers, little-endian; None for a whole model, for what is not finite, and for what takes too long."""
    import numpy as np

    if adapter.kind is Kind.CHECKPOINT:
        return None
    total = np.zeros(DIMENSIONS)
    work = 0.0
    for (component, module), tensors in named(adapter):
        for name, seen, cost in _module(tensors):
            work += cost
            if work > MOST_WORK:
                return None
            with np.errstate(over="ignore", invalid="ignore"):
                total += _signs(f"{component} {module} {name}", 1)[:, 0] * seen()
    return total.astype("<f4").tobytes() if np.isfinite(total).all() else None


_Part = tuple[str, Callable[[], "np.ndarray"], float]
"""A name, what the directions see of it, and the multiplications that this takes."""


def _module(tensors: Roles) -> Iterator[_Part]:
    """What a module does, or its tensors where that is not a product, or no whole one."""
    algorithm = algorithm_of(tensors)
    try:
        form = _FORMS.get(algorithm.name if algorithm else "")
        if form is not None:
            yield from form(tensors)
            return
    except (ArithmeticError, IndexError, KeyError, ValueError):
        pass
    for role, tensor in sorted(tensors.items()):
        if tensor.dtype in FLOATS and tensor.size > 1:
            yield str(role), partial(_seen_tensor, tensor), DIMENSIONS * tensor.size


def _low_rank(tensors: Roles) -> Iterator[_Part]:
    """LoRA and LoCon, a core included."""
    up, down = tensors[R.UP], tensors[R.DOWN]
    cost = DIMENSIONS * (up.size + down.size + (tensors[R.MID].size if R.MID in tensors else 0))
    yield "", lambda: _seen_pair(_matrix(up), _down(tensors), float(total_scale(tensors))), cost


def _down(tensors: Roles) -> np.ndarray:
    import numpy as np

    down = values(tensors[R.DOWN]).astype("f4")
    if R.MID in tensors:
        down = np.einsum("st...,ti->si...", values(tensors[R.MID]).astype("f4"), down.reshape(len(down), -1))
    if R.ADALORA_E in tensors:
        down = down * values(tensors[R.ADALORA_E]).astype("f4").reshape(-1, *[1] * (down.ndim - 1))
    return down.reshape(len(down), -1)


def _hadamard(tensors: Roles) -> Iterator[_Part]:
    """LoHa, whose product has the Khatri-Rao products of its factors as factors; with cores, by its tensors."""
    import numpy as np

    if R.HADA_T1 in tensors:
        raise KeyError(R.HADA_T1)
    a1, b1, a2, b2 = (tensors[role] for role in (R.HADA_W1_A, R.HADA_W1_B, R.HADA_W2_A, R.HADA_W2_B))
    rank = b1.shape[0] * b2.shape[0]

    def seen() -> np.ndarray:
        up = np.einsum("oi,oj->oij", _matrix(a1), _matrix(a2)).reshape(a1.shape[0], -1)
        down = np.einsum("ic,jc->ijc", _matrix(b1), _matrix(b2)).reshape(rank, -1)
        return _seen_pair(up, down, float(total_scale(tensors)))

    yield "", seen, DIMENSIONS * rank * (a1.shape[0] + b1.size // b1.shape[0])


def _kronecker(tensors: Roles) -> Iterator[_Part]:
    """LoKr: uᵀ·kron(w₁, w₂)·v = ⟨w₁ᵀ·U·w₂, V⟩, U and V being u and v as matrices; with a core, by its tensors."""
    if R.LOKR_T2 in tensors:
        raise KeyError(R.LOKR_T2)
    shapes = [_extent(tensors, *side) for side in (_LEFT, _RIGHT)]
    (o1, i1), (o2, i2) = shapes
    scaled = R.LOKR_W1 not in tensors or R.LOKR_W2 not in tensors

    def seen() -> np.ndarray:

        w1, w2 = (_whole(tensors, *side) for side in (_LEFT, _RIGHT))
        rows = _signs(f"rows {o1 * o2}", o1 * o2).reshape(-1, o1, o2)
        columns = _signs(f"columns {i1 * i2}", i1 * i2).reshape(-1, i1, i2)
        found: np.ndarray = (((w1.T @ rows) @ w2) * columns).sum((1, 2))
        return found * (float(total_scale(tensors)) if scaled else 1.0)

    yield "", seen, DIMENSIONS * (o1 * i1 * o2 + i1 * o2 * i2)


_LEFT, _RIGHT = (R.LOKR_W1, R.LOKR_W1_A, R.LOKR_W1_B), (R.LOKR_W2, R.LOKR_W2_A, R.LOKR_W2_B)


def _extent(tensors: Roles, full: Role, a: Role, b: Role) -> tuple[int, int]:
    if full in tensors:
        return tensors[full].shape[0], tensors[full].size // tensors[full].shape[0]
    return tensors[a].shape[0], tensors[b].size // tensors[b].shape[0]


def _whole(tensors: Roles, full: Role, a: Role, b: Role) -> np.ndarray:
    return _matrix(tensors[full]) if full in tensors else _matrix(tensors[a]) @ _matrix(tensors[b])


def _plain(tensors: Roles) -> Iterator[_Part]:
    """A difference that is stored whole."""
    if R.DIFF not in tensors:
        raise KeyError(R.DIFF)
    yield "", lambda: _seen(_matrix(tensors[R.DIFF])), DIMENSIONS * tensors[R.DIFF].size


_FORMS: dict[str, Callable[[Roles], Iterator[_Part]]] = {
    "lora": _low_rank, "loha": _hadamard, "lokr": _kronecker, "full": _plain,
}  # fmt: skip


def _matrix(tensor: LazyTensor) -> np.ndarray:
    rows = tensor.shape[0] if len(tensor.shape) > 1 else 1
    return values(tensor).astype("f4").reshape(rows, -1)


def _seen_tensor(tensor: LazyTensor) -> np.ndarray:
    return _seen(_matrix(tensor))


def _seen(matrix: np.ndarray) -> np.ndarray:
    """uᵀ·M·v for every direction."""
    rows, columns = matrix.shape
    found: np.ndarray = ((_signs(f"rows {rows}", rows) @ matrix) * _signs(f"columns {columns}", columns)).sum(1)
    return found


def _seen_pair(up: np.ndarray, down: np.ndarray, scale: float) -> np.ndarray:
    """uᵀ·up·down·v for every direction."""
    rows, columns = _signs(f"rows {len(up)}", len(up)), _signs(f"columns {down.shape[1]}", down.shape[1])
    found: np.ndarray = ((rows @ up) * (columns @ down.T)).sum(1)
    return found * scale if math.isfinite(scale) else found * math.nan


@lru_cache(maxsize=_KEPT)
def _signs(name: str, count: int) -> np.ndarray:
    """(DIMENSIONS, count) of +1 and -1, the same on every machine: the bits of SHAKE-128."""
    import numpy as np

    bits = hashlib.shake_128(f"{VERSION} {name}".encode()).digest(-(-DIMENSIONS * count // 8))
    signs = np.unpackbits(np.frombuffer(bits, "u1"))[: DIMENSIONS * count].reshape(DIMENSIONS, count)
    return signs.astype("f4") * 2 - 1
