"""Linear hypernetworks among adapters: each is folded into what the adapters before it made of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from adapterhub.adapter import Adapter, Key, Module, Role
from adapterhub.documents import LedgerEntry
from adapterhub.layouts.checkpoint.aside import weights_of
from adapterhub.layouts.checkpoint.places import spelled
from adapterhub.operations.base import Base
from adapterhub.operations.merge.arithmetic import Rounding, merged
from adapterhub.operations.merge.plan import NOT_WANTED, Opened, Plan
from adapterhub.operations.merge.scratch import Pool
from adapterhub.operations.merge.strengths import Selection
from adapterhub.operations.merge.terms import Term
from adapterhub.tensors import Buffer, LazyTensor


def add_hypernetwork(plan: Plan, base: Adapter, opened: Opened, selection: Selection) -> None:
    """Every attention that a hypernetwork changes. RefusedInput where it is not linear."""
    from adapterhub.layouts.hypernetwork.structure import net_of
    from adapterhub.operations.hypernetwork.fold import fold

    places = opened.source.reading.places
    folded = fold(opened.source.adapter, Base(base.architecture, _so_far(plan, base)), dtype="F64")
    for net, changes in folded.items():
        held = [opened.place(place) for key, place in places.items() if net_of(key) == net]
        keys = []
        for key, change in changes.items():
            module = Module(key.component, key.module)
            if strength := selection.strength(module, opened.part):
                keys += plan.add(
                    base, module, Term({key.role: change}, strength, (opened.digest, strength), folded=True)
                )
        if keys:
            plan.targets.append((held, keys, f"folded into to_{net.half}, × {opened.part.unet:g}"))
        else:
            plan.drops.append(LedgerEntry(source=held, target=[], action="drop", reason=NOT_WANTED))
            if not changes:
                why = f"no attention of {base.architecture} has contexts of {net.width}"
                plan.losses.append((f"{opened.part.path}: {net.width}.{net.half}", why))


def _so_far(plan: Plan, base: Adapter) -> dict[str, LazyTensor]:
    """The weights as the terms that are planned leave them, in float64 where there are any."""
    return {f"{key.component}.{spelled(key)}": _now(key, base.tensors[key], list(plan.terms.get(key, ())))
            for key in weights_of(base.tensors) if key.role in (Role.LAYER_WEIGHT, Role.LAYER_BIAS)}  # fmt: skip


def _now(key: Key, stored: LazyTensor, terms: list[Term]) -> LazyTensor:
    return LazyTensor("F64", stored.shape, partial(_computed, key, stored, terms)) if terms else stored


def _computed(key: Key, stored: LazyTensor, terms: list[Term]) -> Iterator[Buffer]:
    yield from merged(key, stored, terms, "F64", Rounding(), Pool())
