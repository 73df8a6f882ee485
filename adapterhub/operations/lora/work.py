"""The answers of the LoRA family: `inspect`, `validate`, `convert` and `diff` ask for them (`operations/work.py`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adapterhub.adapter import Adapter, Module, Role, Roles
from adapterhub.algorithms import algorithm_of, label, rank_of
from adapterhub.documents import LedgerEntry, Problem
from adapterhub.errors import LossyConversion
from adapterhub.files import Package
from adapterhub.layouts.base import Layout, Reading
from adapterhub.layouts.identity import Identity
from adapterhub.layouts.lora.placing import AlphaPlace, LoraLayout
from adapterhub.operations.base import Base
from adapterhub.operations.casting import cast
from adapterhub.operations.ledger import Ledger
from adapterhub.operations.lora import alphas, steps
from adapterhub.operations.lora.conform import conform
from adapterhub.operations.lora.faults import alpha_faults, faults
from adapterhub.operations.lora.faults import alphas as alphas_in
from adapterhub.operations.source import Source
from adapterhub.operations.titles import retitled
from adapterhub.operations.work import Made, Request


def examine(package: Package, identity: Identity, reading: Reading) -> tuple[dict[str, Any], list[Problem]]:
    """Modules counted by algorithm, component, rank and alpha; what the header and the alphas tell."""
    assert identity.fit is not None
    found = alphas_in(reading.modules)
    odd = alpha_faults(identity.fit.layout, reading.modules, found)
    fields = {"variant": identity.fit.variant, **_described(reading, found)}
    return fields, [*faults(package, identity, reading), *odd]


def value_faults(package: Package, identity: Identity, reading: Reading, base: Path | None) -> Iterator[Problem]:
    """What is wrong with the values, what the file claims of itself, and what does not work on a base model."""
    from adapterhub.operations.lora.validate import value_faults as everything

    yield from everything(package, identity, reading, base)


def make(opened: Source, request: Request, base: Base) -> Made:
    """The LoRA in another layout."""
    step = steps.Step(Ledger(opened.reading.places), base)
    assert opened.identity.fit is not None
    made = into_layout(step, opened.adapter, request, without_alpha=loses_alpha(opened.identity.fit.layout))
    left_out = [LedgerEntry(source=[place], target=[], action="drop", reason=why) for place, why in opened.dropped]
    made.entries.extend(left_out)
    return made


def into_layout(step: steps.Step, source: Adapter, request: Request, *, without_alpha: bool) -> Made:
    """Every step in order, each telling the ledger. `source` comes `without_alpha` where its layout has no place for it."""
    layout: LoraLayout = request.layout  # type: ignore[assignment] # the kind says so
    adapter = conform(source, step.ledger)
    error = 0.0
    if request.algorithm:
        adapter, error = steps.as_algorithm(step, adapter, request.algorithm, request.rank, request.dtype)
    adapter = steps.translate(step, adapter, layout)
    note = alphas.remember(adapter, folded=layout.alpha is AlphaPlace.FOLDED) if loses_alpha(layout) else None
    if layout.alpha is AlphaPlace.FOLDED:
        adapter = steps.fold(step, adapter)
    elif layout.alpha is AlphaPlace.TENSOR and without_alpha:
        adapter = alphas.complete(adapter)
    adapter = steps.without_homeless(step, adapter, layout, request.allow_loss)
    if not adapter.tensors:
        raise nothing_left(request.source, layout)
    if request.dtype:
        adapter = cast(adapter, request.dtype, step.ledger)
    fields = {} if note is None else {alphas.FIELD: note}
    adapter = retitled(adapter.with_metadata({**adapter.metadata, **fields}), request.source.stem)
    encoded = layout.encode(adapter)
    entries = step.ledger.entries(encoded)
    approximate = error > 0 or bool(request.algorithm and request.dtype)
    return Made(source, adapter, encoded, entries, approximate)


def nothing_left(source: Path, layout: Layout) -> LossyConversion:
    """What is said where --allow-loss would lose everything."""
    return LossyConversion(f"nothing of {source} would remain in {layout.name}", [], mend="Use another layout.")


def loses_alpha(layout: LoraLayout) -> bool:
    """Whether a layout keeps alpha elsewhere than in a tensor, or nowhere."""
    return layout.alpha is not AlphaPlace.TENSOR


def _described(reading: Reading, found: Mapping[Module, float]) -> dict[str, Any]:
    modules = reading.modules
    changed = {module: roles for module, roles in modules.items() if Role.VECTORS not in roles}
    ranks = Counter(str(rank) for roles in changed.values() if (rank := rank_of(roles)) is not None)
    return {
        "algorithms": dict(Counter(_label(roles) for roles in changed.values())),
        "components": dict(Counter(module.component for module in changed)),
        "ranks": dict(ranks),
        "alphas": dict(Counter(f"{value:.6g}" for value in found.values())),
    }


def _label(roles: Roles) -> str:
    algorithm = algorithm_of(roles)
    return label(roles, algorithm) if algorithm else "unknown"
