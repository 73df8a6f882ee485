"""The steps of a conversion: each takes an adapter, returns another, and tells the ledger what it replaced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapterhub.adapter import Adapter, Key, Module, Role, Roles
from adapterhub.algorithms import algorithm_of, label, rank_of, scale_of, total_scale
from adapterhub.documents import Action
from adapterhub.errors import LossyConversion
from adapterhub.layouts.lora.placing import AlphaPlace, LoraLayout
from adapterhub.operations.base import Base
from adapterhub.operations.ledger import Ledger
from adapterhub.operations.lora import translate as conventions
from adapterhub.operations.lora.naming import naming
from adapterhub.operations.work import Cut
from adapterhub.tensors import LazyTensor

if TYPE_CHECKING:
    from torch import Tensor

R = Role

# Roles without which a module is still itself: a layout that has no place for them loses them alone.
_APART = frozenset({R.DIFF_B, R.UP_BIAS})
_SCALES = frozenset({R.ALPHA, R.SCALE, R.SCALAR})


@dataclass(frozen=True)
class Step:
    """What every step may need: the ledger to tell, and the base to look weights up in."""

    ledger: Ledger
    base: Base

    def replaced(self, module: Module, before: Roles, after: Roles, action: Action, reason: str) -> None:
        """Tells the ledger that a module's tensors, those that changed, became others."""
        old = [Key(*module, role) for role, tensor in before.items() if after.get(role) is not tensor]
        new = [Key(*module, role) for role, tensor in after.items() if before.get(role) is not tensor]
        self.ledger.replace(old or new, new, action, reason)


def as_algorithm(
    step: Step, adapter: Adapter, name: str, rank: int | None, dtype: str | None
) -> tuple[Adapter, dict[Module, Cut]]:
    """Every module as `name` ("lora" or "full"); also those that a truncation changed."""
    tensors: dict[Key, LazyTensor] = {}
    cuts: dict[Module, Cut] = {}
    for module, roles in adapter.modules().items():
        algorithm = algorithm_of(roles)
        made, error = (roles, 0.0)
        if algorithm is not None and algorithm.name not in ("norm", "embedding"):
            with naming(module):
                made, error = _as_full(step.base, module, roles, dtype) if name == "full" else (
                    _as_lora(step.base, module, roles, rank, dtype))  # fmt: skip
            step.replaced(module, roles, made, "compute", f"{label(roles, algorithm)} as {name}")
        tensors |= _keyed(module, made)
        if error:
            cuts[module] = Cut(rank_of(made) or 0, error)
    return adapter.with_tensors(tensors), cuts


def _as_lora(base: Base, module: Module, roles: Roles, rank: int | None, dtype: str | None) -> tuple[Roles, float]:
    from adapterhub.operations.lora.as_lora import as_lora

    bias = base.value(module, bias=True)
    made = as_lora(roles, _weight(base, module, roles), rank=rank, dtype=dtype, weight_shape=base.shape(module, roles),
                   base_bias=bias)  # fmt: skip
    return made.tensors, made.error


def _as_full(base: Base, module: Module, roles: Roles, dtype: str | None) -> tuple[Roles, float]:
    """ΔW is computed when it is written: all of them at once would be the model."""
    from adapterhub.operations.lora import deltas
    from adapterhub.operations.lora.as_full import as_full, bias_of

    found, shape = deltas.delta(roles), base.shape(module, roles)
    stored = dtype or "F32"
    if shape is None or found.name == "full" or (found.needs_base and base.weight(module) is None):
        weight = _weight(base, module, roles)  # without which NeedsBase is raised here, where it is needed
        return as_full(roles, weight, dtype=stored), 0.0

    def chunks() -> Iterable[bytes]:
        with naming(module):
            made = as_full(roles, _weight(base, module, roles), dtype=stored, weight_shape=shape)[R.DIFF]
        yield made.read()

    bias = bias_of(found, roles, base.value(module, bias=True), stored)
    return {R.DIFF: LazyTensor(stored, shape, chunks), **bias}, 0.0


def translate(step: Step, adapter: Adapter, layout: LoraLayout) -> Adapter:
    """Every module in the conventions of `layout`."""
    tensors: dict[Key, LazyTensor] = {}
    for module, roles in adapter.modules().items():
        now: Roles = roles
        for made in conventions.translate(roles, module, layout.roles(module.component).keys(), step.base):
            step.replaced(module, now, made.tensors, made.action, made.reason)
            now = made.tensors
        tensors |= _keyed(module, now)
    return adapter.with_tensors(tensors)


def fold(step: Step, adapter: Adapter) -> tuple[Adapter, int]:
    """alpha / rank multiplied into a factor, for a layout that has no place for it; also how many numbers lost more than
    rounding to that.
    """
    from adapterhub.operations.lora.fold import fold as folded
    from adapterhub.operations.lora.fold import sunk

    tensors: dict[Key, LazyTensor] = {}
    lost = 0
    for module, roles in adapter.modules().items():
        made, exact = folded(roles)
        if made.keys() != roles.keys() or any(made[role] is not roles[role] for role in made):
            scale = scale_of(roles)
            step.replaced(module, roles, made, "fold", f"× {scale}{'' if exact else ', rounded once'}")
        if not exact:
            factor = {R.UP_BIAS: scale_of(roles)}
            lost += sum(sunk(roles[role], tensor, float(factor.get(role, total_scale(roles))))
                        for role, tensor in made.items() if tensor is not roles[role])  # fmt: skip
        tensors |= _keyed(module, made)
    return adapter.with_tensors(tensors), lost


def without_homeless(step: Step, adapter: Adapter, layout: LoraLayout, allow_loss: bool) -> Adapter:
    """The adapter less what `layout` has no place for; LossyConversion unless `allow_loss`."""
    homeless: dict[Key, str] = {}
    for module, roles in adapter.modules().items():
        homeless |= {
            Key(*module, role): why for role, why in _homeless(adapter.architecture, module, roles, layout).items()
        }
    if homeless and not allow_loss:
        raise _loss(adapter, homeless, layout)
    for key, why in homeless.items():
        step.ledger.replace([key], [], "drop", why)
    return adapter.with_tensors({key: t for key, t in adapter.tensors.items() if key not in homeless})


def _homeless(architecture: str, module: Module, roles: Roles, layout: LoraLayout) -> dict[Role, str]:
    """The roles of a module that have no place, and why: one that it cannot be without takes all of them along."""
    without = [role for role in roles if layout.place(Key(*module, role), architecture) is None
               and not (role in _SCALES and layout.alpha is AlphaPlace.METADATA)]  # fmt: skip
    if not without:
        return {}
    algorithm = algorithm_of(roles)
    name = label(roles, algorithm) if algorithm else "this"
    if all(role in _APART for role in without) and len(without) < len(roles):
        return dict.fromkeys(without, f"{layout.name} has no place for a bias")
    if set(without) >= set(roles) - _SCALES and not any(role in layout.roles(module.component) for role in roles):
        return dict.fromkeys(roles, f"{layout.name} has no place for {name}")
    if all(role in layout.roles(module.component) for role in without):
        return dict.fromkeys(roles, f"{layout.name} has no name for this module")
    return dict.fromkeys(roles, f"{layout.name} has no place for {', '.join(without)} of {name}")


def _loss(adapter: Adapter, homeless: Mapping[Key, str], layout: LoraLayout) -> LossyConversion:
    losses = [(".".join(key), why) for key, why in homeless.items()]
    modules = {key[:2] for key in homeless}
    reasons = "; ".join(dict.fromkeys(homeless.values()))
    return LossyConversion(
        f"{layout.name} cannot hold {len(modules)} of {len(adapter.modules())} modules: {reasons}", losses,
        mend="--as lora turns LoHa, LoKr and tucker convolutions into LoRA exactly, --as lora --rank R anything "
             "approximately; --allow-loss leaves them out and lists them.",
    )  # fmt: skip


def _weight(base: Base, module: Module, roles: Roles) -> Tensor | None:
    """The base's weight, where the module's ΔW depends on it."""
    from adapterhub.operations.lora import deltas

    return base.value(module) if deltas.delta(roles).needs_base else None


def _keyed(module: Module, roles: Mapping[Role, LazyTensor]) -> dict[Key, LazyTensor]:
    return {Key(*module, role): tensor for role, tensor in roles.items()}
