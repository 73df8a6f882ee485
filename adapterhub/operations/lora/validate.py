"""What is wrong with the values of a LoRA, by themselves and on a base model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from adapterhub.adapter import Module, Role, Roles
from adapterhub.algorithms import algorithm_of, missing
from adapterhub.documents import Problem
from adapterhub.errors import RefusedInput
from adapterhub.files import Package
from adapterhub.layouts.base import Reading
from adapterhub.layouts.identity import Identity
from adapterhub.operations import values
from adapterhub.operations.base import Base, base_of
from adapterhub.operations.lora.claims import claims
from adapterhub.operations.lora.faults import alphas
from adapterhub.operations.lora.shapes import misfit
from adapterhub.operations.problems import error
from adapterhub.tensors import LazyTensor

_OTHER = "Give the base that it was trained on."


def value_faults(package: Package, identity: Identity, reading: Reading, base: Path | None) -> Iterator[Problem]:
    """Module by module; then what the file claims of itself; then what a base model says."""
    assert identity.fit is not None
    misfits = set(identity.fit.misfits)
    for module, tensors in reading.modules.items():
        yield from values.value_faults(module, tensors, fits=module not in misfits)
    yield from claims(package, identity.fit, reading, alphas(reading.modules))
    if base is not None:
        with base_of(base, reading.architecture, variant=package.variant, whatever=True) as weights:
            yield from _on(weights, reading)


def _on(base: Base, reading: Reading) -> Iterator[Problem]:
    """What does not work on a base model."""
    for module, tensors in reading.modules.items():
        algorithm = algorithm_of(tensors)
        if algorithm is None or missing(tensors, algorithm) or Role.VECTORS in tensors:
            continue
        where, weight = ".".join(module), base.weight(module)
        if weight is None:
            yield error("not-in-base", where, "the base model has no such module", _OTHER)
        elif why := misfit(tensors, weight.shape):
            message = f"{why} the base model, whose weight is {list(weight.shape)}"
            yield error("base-shape", where, message, _OTHER)
        elif algorithm.needs_base or Role.DORA_SCALE in tensors:
            yield from _result(module, tensors, weight)


def _result(module: Module, tensors: Roles, weight: LazyTensor) -> Iterator[Problem]:
    from adapterhub.operations.lora import deltas

    try:
        changed = deltas.change(tensors, deltas.tensor(weight))
    except RefusedInput as fault:
        yield error("base-shape", ".".join(module), fault.message, fault.mend)
        return
    if not bool(changed.isfinite().all()):
        yield error("not-finite", ".".join(module), "what becomes of the base model's weight is NaN or infinite",
                    "The file or the base is broken.")  # fmt: skip
