"""The answers of the LoRA family: `inspect`, `validate`, `convert` and `diff` ask for them (`operations/work.py`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.documents import Problem
from adapterhub.files import Package
from adapterhub.layouts.base import Reading
from adapterhub.layouts.identity import Identity
from adapterhub.operations.lora.configs import without_alpha
from adapterhub.operations.lora.faults import alpha_faults, alphas, faults
from adapterhub.operations.lora.outline import outlined

if TYPE_CHECKING:
    from adapterhub.operations.base import Base
    from adapterhub.operations.source import Source
    from adapterhub.operations.work import Made, Request


def examine(package: Package, identity: Identity, reading: Reading) -> tuple[dict[str, Any], list[Problem]]:
    """Modules counted by algorithm, component, rank and alpha; what the header and the alphas tell."""
    assert identity.fit is not None
    found = alphas(reading.modules)
    outline = outlined(reading.modules)
    fields = {
        "variant": identity.fit.variant,
        "algorithms": dict(outline.algorithms), "components": dict(outline.components), "ranks": dict(outline.ranks),
        "alphas": dict(Counter(map("{:.6g}".format, found.values()))),
    }  # fmt: skip
    odd = alpha_faults(identity.fit.layout, reading.modules, found)
    untold = without_alpha(package, identity.fit, reading)
    return fields, [*faults(package, identity, reading, plain=outline.plain), *odd, *untold]


def value_faults(package: Package, identity: Identity, reading: Reading, base: Path | None) -> Iterator[Problem]:
    """What is wrong with the values, what the file claims of itself, and what does not work on a base model."""
    from adapterhub.operations.lora.validate import value_faults as everything

    yield from everything(package, identity, reading, base)


def make(opened: Source, request: Request, base: Base) -> Made:
    """The LoRA in another layout."""
    from adapterhub.operations.lora.make import make as made

    return made(opened, request, base)
