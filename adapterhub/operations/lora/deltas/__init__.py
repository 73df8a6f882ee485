"""What every algorithm does to a weight: one class each, chosen by the roles of a module. All arithmetic is in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from adapterhub.adapter import Role, Roles
from adapterhub.algorithms import algorithm_of, missing
from adapterhub.errors import BrokenAdapter
from adapterhub.operations.lora.deltas.base import Additive, Delta
from adapterhub.operations.lora.deltas.boft import BOFT, InputBOFT
from adapterhub.operations.lora.deltas.dora import DoRA
from adapterhub.operations.lora.deltas.full import Full, Norm, Replacement
from adapterhub.operations.lora.deltas.glora import GLoRA
from adapterhub.operations.lora.deltas.ia3 import IA3, MultiplierIA3
from adapterhub.operations.lora.deltas.loha import LoHa
from adapterhub.operations.lora.deltas.lokr import LoKr
from adapterhub.operations.lora.deltas.lora import LoRA
from adapterhub.operations.lora.deltas.oft import OFT, InputOFT
from adapterhub.operations.lora.deltas.values import lazy, tensor

__all__ = ["Additive", "Delta", "change", "delta", "lazy", "tensor"]

R = Role

_CLASSES: tuple[tuple[str, Role | None, Callable[[Roles], Delta]], ...] = (
    ("lora", None, LoRA), ("loha", None, LoHa), ("lokr", None, LoKr), ("glora", None, GLoRA), ("norm", None, Norm),
    ("ia3", R.IA3_L, MultiplierIA3), ("ia3", None, IA3),
    ("oft", R.OFT_R, InputOFT), ("oft", None, OFT),
    ("boft", R.BOFT_R, InputBOFT), ("boft", None, BOFT),
    ("full", R.SET_WEIGHT, Replacement), ("full", None, Full),
)  # fmt: skip
"""algorithm, the role that calls for this class (None: any), class; the first that fits."""

_TOGETHER = (
    frozenset({R.HADA_T1, R.HADA_T2}),
    frozenset({R.RESIDUAL_INDICES, R.RESIDUAL_VALUES}),
)


def delta(tensors: Roles) -> Delta:
    """What one module's `tensors` do. Raises BrokenAdapter naming the roles that are missing."""
    algorithm = algorithm_of(tensors)
    kind = next((row for row in _CLASSES if algorithm and row[0] == algorithm.name and _asks(row[1], tensors)), None)
    if algorithm is None or kind is None:
        raise BrokenAdapter(f"no algorithm changes a weight by {_names(tensors)} alone")
    if lacking := missing(tensors, algorithm) | _halves(tensors):
        raise BrokenAdapter(f"a {algorithm.name} module without {_names(lacking)}")
    found = kind[2](tensors)
    return DoRA(found) if R.DORA_SCALE in tensors and isinstance(found, Additive) else found


def change(tensors: Roles, weight: Tensor | None) -> Tensor:
    """ΔW of one module at strength 1, whatever its algorithm. Raises NeedsBase where it takes `weight` and there is none."""
    found = delta(tensors)
    if not found.needs_base or weight is None:
        return found.matrix()
    return found.apply(weight) - weight.detach().to(torch.float64)


def _asks(role: Role | None, tensors: Roles) -> bool:
    return role is None or role in tensors


def _halves(tensors: Roles) -> frozenset[Role]:
    """What lacks its companion's companion: a core without the other, indices without values."""
    return frozenset().union(*(both - tensors.keys() for both in _TOGETHER if not both.isdisjoint(tensors)))


def _names(roles: Roles | frozenset[Role]) -> str:
    return ", ".join(sorted(roles)) or "nothing"
