"""The answers of whole models: `inspect`, `validate`, `convert` and `diff` ask for them (`operations/work.py`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.adapter import Role
from adapterhub.documents import Part, Problem
from adapterhub.files import Package
from adapterhub.layouts.base import Reading
from adapterhub.layouts.checkpoint.aside import ASIDE, extra_of
from adapterhub.layouts.identity import Identity
from adapterhub.operations.checkpoint.faults import faults
from adapterhub.tensors import LazyTensor

_V_PREDICTION = "v_pred"

if TYPE_CHECKING:
    from adapterhub.operations.base import Base
    from adapterhub.operations.source import Source
    from adapterhub.operations.work import Made, Request


def examine(package: Package, identity: Identity, reading: Reading) -> tuple[dict[str, Any], list[Problem]]:
    """The components with what they hold, and the classes of what stands beside them."""
    assert identity.whole is not None
    modules = [module for module in reading.modules if module.component != ASIDE]
    extras = {
        module.module: roles[Role.ASIDE] for module, roles in reading.modules.items() if module.component == ASIDE
    }
    components = Counter(module.component for module in modules)
    variant = identity.whole.variant or ("v-prediction" if _V_PREDICTION in extras else None)
    fields = {
        "components": dict(components),
        "variant": variant,
        "parts": {component: _part(reading, component) for component in components},
        **_extras([*extras.items(), *(one for file in package.files.values() for one in file.beside.items())]),
    }
    return fields, list(faults(package, identity, reading))


def _extras(extras: Iterable[tuple[str, LazyTensor]]) -> dict[str, dict[str, int]]:
    """How many tensors beside the weights there are of each class, and their bytes."""
    counted: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for name, tensor in extras:
        kind = extra_of(name).name
        counted[kind] += 1
        sizes[kind] += tensor.nbytes
    return {"extras": dict(counted), "extra_bytes": dict(sizes)}


def _part(reading: Reading, component: str) -> Part:
    held = [
        tensor
        for module, roles in reading.modules.items()
        if module.component == component
        for tensor in roles.values()
    ]
    dtypes = Counter(tensor.dtype for tensor in held)
    return Part(tensors=len(held), parameters=sum(tensor.size for tensor in held), dtypes=dict(dtypes))


def value_faults(package: Package, identity: Identity, reading: Reading, base: Path | None) -> Iterator[Problem]:
    """Numbers that are none. How a model compares with a base: `descent.py`."""
    from adapterhub.operations.checkpoint.values import value_faults as everything

    yield from everything(reading)


def make(opened: Source, request: Request, base: Base) -> Made:
    """The model in another layout."""
    from adapterhub.operations.checkpoint.make import make as made

    return made(opened, request)
