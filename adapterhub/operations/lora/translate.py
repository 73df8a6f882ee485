"""One algorithm in two conventions: what the target's roles lack is said in those that it has, where that is possible.

Formulas: formats of PEFT and LyCORIS as `operations/deltas` has them. Every row answers None where it does not apply.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from adapterhub.adapter import Module, Role, Roles
from adapterhub.algorithms import algorithm_of, rank_of, scale_of, scales_input
from adapterhub.documents import Action
from adapterhub.errors import NeedsBase
from adapterhub.layouts.lora.peft_config import alpha_scalar, factor_of
from adapterhub.operations.base import Base
from adapterhub.tensors import LazyTensor, item, scalar

R = Role


class Translation(NamedTuple):
    """The module's new tensors, and what was done to it and why."""

    tensors: dict[Role, LazyTensor]
    action: Action
    reason: str


def translate(roles: Roles, module: Module, target: Collection[Role], base: Base) -> list[Translation]:
    """The steps, each on the tensors of the one before, that bring a module nearer to the roles of `target`."""
    steps: list[Translation] = []
    for row in _ROWS:
        now: Roles = steps[-1].tensors if steps else roles
        if (step := row(now, module, target, base)) is not None:
            steps.append(step)
    return steps


def _scale(roles: Roles, module: Module, target: Collection[Role], base: Base) -> Translation | None:
    """A1111's `.scale` is alpha / rank under another name."""
    if R.SCALE not in roles or R.SCALE in target:
        return None
    tensors = _less(roles, R.SCALE)
    rank = rank_of(roles)
    if rank is not None:
        tensors[R.ALPHA] = alpha_scalar(float(scale_of(roles)) * rank, factor_of(tensors))
    return Translation(tensors, "compute", "scale × rank = alpha")


def _scalar(roles: Roles, module: Module, target: Collection[Role], base: Base) -> Translation | None:
    """LyCORIS folds its scalar into a factor when it saves, and so does this."""
    if R.SCALAR not in roles or R.SCALAR in target:
        return None
    from adapterhub.operations.lora.fold import fold

    folded, _ = fold(_less(roles, R.ALPHA, R.SCALE))
    aside = _less(roles, *(roles.keys() - {R.ALPHA, R.SCALE}))
    return Translation({**folded, **aside}, "fold", f"scalar {item(roles[R.SCALAR])}")


def _adalora(roles: Roles, module: Module, target: Collection[Role], base: Base) -> Translation | None:
    """B·diag(E)·A is a LoRA."""
    if R.ADALORA_E not in roles or R.ADALORA_E in target:
        return None
    from adapterhub.operations.lora.as_lora import as_lora

    return Translation(dict(as_lora(roles).tensors), "fold", "AdaLoRA's singular values")


def _bias(roles: Roles, module: Module, target: Collection[Role], base: Base) -> Translation | None:
    """PEFT scales the bias of lora_B with the pair; `.diff_b` is Δb itself."""
    here, there = (R.UP_BIAS, R.DIFF_B) if R.UP_BIAS in roles else (R.DIFF_B, R.UP_BIAS)
    algorithm = algorithm_of(roles)
    if here not in roles or here in target or there not in target or algorithm is None or algorithm.name != "lora":
        return None
    scale = float(scale_of(roles))
    if scale == 0:
        return None
    from adapterhub.operations.lora import deltas

    factor = scale if here is R.UP_BIAS else 1 / scale
    tensors = _less(roles, here)
    tensors[there] = roles[here] if factor == 1 else deltas.lazy(deltas.tensor(roles[here]) * factor, roles[here].dtype)
    return Translation(tensors, "compute" if factor != 1 else "rename", f"bias × {factor:g}")


def _ia3_to_lycoris(roles: Roles, module: Module, target: Collection[Role], base: Base) -> Translation | None:
    """w = l - 1. PEFT scales the bias too unless the input is scaled, which takes the base's bias to say."""
    if R.IA3_L not in roles or R.IA3_L in target:
        return None
    from adapterhub.operations.lora import deltas

    multiplier = roles[R.IA3_L]
    shape = base.shape(module, roles)
    on_input = scales_input(multiplier, shape[0] if shape else multiplier.size)
    change = deltas.tensor(multiplier).flatten() - 1
    conv = len(shape or multiplier.shape) == 4
    tensors = _less(roles, R.IA3_L)
    tensors[R.IA3_WEIGHT] = deltas.lazy(change.reshape(1, -1, 1, 1) if conv else change, multiplier.dtype)
    tensors[R.ON_INPUT] = scalar(int(on_input), "I64")
    if not on_input and base.is_biased(module):
        bias = base.bias(module)
        if bias is None:
            raise NeedsBase(
                f"{module.component} {module.module}: PEFT's IA3 scales the bias too, and Δb = bias · (l - 1) needs it",
                mend="Give the model that it was trained on: --base CHECKPOINT.",
            )
        tensors[R.DIFF_B] = deltas.lazy(deltas.tensor(bias) * change, "F32")
    return Translation(tensors, "compute", "w = l - 1")


def _ia3_to_peft(roles: Roles, module: Module, target: Collection[Role], base: Base) -> Translation | None:
    """l = 1 + w, in F32 because 1 + w loses what w holds near 0; not where PEFT would scale a bias as well."""
    if R.IA3_WEIGHT not in roles or R.IA3_WEIGHT in target or R.IA3_L not in target:
        return None
    on_input = bool(item(roles[R.ON_INPUT]))
    if not on_input and base.is_biased(module):
        return None
    from adapterhub.operations.lora import deltas

    change = deltas.tensor(roles[R.IA3_WEIGHT]).flatten()
    shape = (1, -1) if on_input else (-1, 1)
    tensors = _less(roles, R.IA3_WEIGHT, R.ON_INPUT, R.ALPHA)
    tensors[R.IA3_L] = deltas.lazy((1 + change).reshape(shape), "F32")
    return Translation(tensors, "compute", "l = 1 + w")


def _less(roles: Roles, *gone: Role) -> dict[Role, LazyTensor]:
    return {role: tensor for role, tensor in roles.items() if role not in gone}


_Row = Callable[[Roles, Module, Collection[Role], Base], Translation | None]
_ROWS: tuple[_Row, ...] = (_scale, _scalar, _adalora, _bias, _ia3_to_lycoris, _ia3_to_peft)
