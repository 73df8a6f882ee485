"""The answers of hypernetworks: `inspect`, `validate`, `convert` and `diff` ask for them (`operations/work.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.adapter import Kind
from adapterhub.documents import Problem
from adapterhub.files import Package
from adapterhub.layouts.base import Reading
from adapterhub.layouts.hypernetwork.structure import STRUCTURE, is_linear, structure_of
from adapterhub.layouts.identity import Identity
from adapterhub.operations.hypernetwork.faults import faults

if TYPE_CHECKING:
    from adapterhub.operations.base import Base
    from adapterhub.operations.source import Source
    from adapterhub.operations.work import Made, Request


def examine(package: Package, identity: Identity, reading: Reading) -> tuple[dict[str, Any], list[Problem]]:
    """The structure, and what shapes and fields tell."""
    structure = structure_of(reading.adapter)
    fields = {
        "structure": {**structure.model_dump(mode="json"), "linear": is_linear(structure)},
        "metadata": {field: text for field, text in reading.metadata.items() if field != STRUCTURE},
    }
    return fields, list(faults(package, identity, reading))


def value_faults(package: Package, identity: Identity, reading: Reading, base: Path | None) -> Iterator[Problem]:
    """What is wrong with the numbers, and what other readers make of the fields."""
    from adapterhub.operations.hypernetwork.values import value_faults as everything

    yield from everything(package, identity, reading)


def make(opened: Source, request: Request, base: Base) -> Made:
    """The hypernetwork in another layout, or folded into the weights of `base` for a layout of LoRAs."""
    if request.layout.kind is Kind.LORA:
        from adapterhub.operations.hypernetwork.folded import make_lora

        return make_lora(opened, request, base)
    from adapterhub.operations.hypernetwork.make import make as made

    return made(opened, request)
