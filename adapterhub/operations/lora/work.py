"""The answers of the LoRA family: `inspect`, `validate`, `convert` and `diff` ask for them (`operations/work.py`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.adapter import Module, Role, Roles
from adapterhub.algorithms import algorithm_of, label, rank_of
from adapterhub.documents import Problem
from adapterhub.files import Package
from adapterhub.layouts.base import Reading
from adapterhub.layouts.identity import Identity
from adapterhub.operations.lora.faults import alpha_faults, alphas, faults

if TYPE_CHECKING:
    from adapterhub.operations.base import Base
    from adapterhub.operations.source import Source
    from adapterhub.operations.work import Made, Request


def examine(package: Package, identity: Identity, reading: Reading) -> tuple[dict[str, Any], list[Problem]]:
    """Modules counted by algorithm, component, rank and alpha; what the header and the alphas tell."""
    assert identity.fit is not None
    found = alphas(reading.modules)
    odd = alpha_faults(identity.fit.layout, reading.modules, found)
    fields = {"variant": identity.fit.variant, **_described(reading, found)}
    return fields, [*faults(package, identity, reading), *odd]


def value_faults(package: Package, identity: Identity, reading: Reading, base: Path | None) -> Iterator[Problem]:
    """What is wrong with the values, what the file claims of itself, and what does not work on a base model."""
    from adapterhub.operations.lora.validate import value_faults as everything

    yield from everything(package, identity, reading, base)


def make(opened: Source, request: Request, base: Base) -> Made:
    """The LoRA in another layout."""
    from adapterhub.operations.lora.make import make as made

    return made(opened, request, base)


def _described(reading: Reading, found: Mapping[Module, float]) -> dict[str, Any]:
    modules = reading.modules
    changed = {module: roles for module, roles in modules.items() if Role.VECTORS not in roles}
    ranks = Counter([rank_of(roles) for roles in changed.values()])
    return {
        "algorithms": dict(Counter([_label(roles) for roles in changed.values()])),
        "components": dict(Counter([module.component for module in changed])),
        "ranks": {str(rank): count for rank, count in ranks.items() if rank is not None},
        "alphas": dict(Counter(map("{:.6g}".format, found.values()))),
    }


def _label(roles: Roles) -> str:
    algorithm = algorithm_of(roles)
    return label(roles, algorithm) if algorithm else "unknown"
