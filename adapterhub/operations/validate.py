"""`validate`: everything that is wrong or odd about a file, every value looked at, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import adapterhub.layouts as layouts
from adapterhub import files
from adapterhub.adapter import Kind, Module, Role, Roles
from adapterhub.algorithms import algorithm_of, extent, fits, missing
from adapterhub.documents import Problem, Validation
from adapterhub.errors import RefusedInput
from adapterhub.files import Package
from adapterhub.layouts.base import Reading
from adapterhub.layouts.identity import Identity
from adapterhub.operations.base import Base, base_of
from adapterhub.operations.claims import claims
from adapterhub.operations.faults import alphas, decoded
from adapterhub.operations.inspect import problems_of
from adapterhub.operations.problems import error, grouped, warning
from adapterhub.operations.values import value_faults
from adapterhub.tensors import LazyTensor

_OTHER = "Give the base that it was trained on."


def validate(path: Path | str, *, base: Path | str | None = None) -> Validation:
    """Whether the file or folder at `path` is sound: no problem is an error.

    Every value of a LoRA is read, one tensor at a time; of other kinds only the container is checked. With `base`, each
    module must be there in a fitting shape, and what depends on its weights must come out finite. Torch is imported for
    that, and where a change may be beyond float16. A malformed file raises MalformedFile.
    """
    with files.read(Path(path)) as package:
        identity = layouts.identify(package)
        problems = list(_problems(package, identity, Path(base) if base is not None else None))
        package.ensure_unchanged()
    problems = grouped(sorted(problems, key=lambda problem: problem.severity != "error"))
    fit = None if identity.mixed else identity.fit
    return Validation(
        path=str(path),
        valid=all(problem.severity != "error" for problem in problems),
        kind=identity.kind,
        layout=fit.layout.name if fit and not fit.unplaced else None,
        architecture=fit.architecture if fit else None,
        problems=problems,
    )


def _problems(package: Package, identity: Identity, base: Path | None) -> Iterator[Problem]:
    reading, broken = decoded(package, identity)
    yield from broken
    found = alphas(reading.modules) if reading else {}
    yield from problems_of(package, identity, reading, found)
    if identity.kind is Kind.UNKNOWN:
        what = identity.foreign.title if identity.foreign else "no layout explains its keys"
        yield warning("unknown-kind", "", f"{what}: only the container was checked",
                      "adapterhub inspect --tensors lists the keys.")  # fmt: skip
    if identity.fit is None or reading is None:
        return
    misfits = set(identity.fit.misfits)
    for module, tensors in reading.modules.items():
        yield from value_faults(module, tensors, fits=module not in misfits)
    yield from claims(package, identity.fit, reading, found)
    if base is not None:
        with base_of(base, reading.architecture) as weights:
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
        elif not fits(extent(tensors), weight.shape):
            message = f"does not fit the base model, whose weight is {list(weight.shape)}"
            yield error("base-shape", where, message, _OTHER)
        elif algorithm.needs_base or Role.DORA_SCALE in tensors:
            yield from _result(module, tensors, weight)


def _result(module: Module, tensors: Roles, weight: LazyTensor) -> Iterator[Problem]:
    from adapterhub.operations import deltas

    try:
        changed = deltas.change(tensors, deltas.tensor(weight))
    except RefusedInput as fault:
        yield error("base-shape", ".".join(module), fault.message, fault.mend)
        return
    if not bool(changed.isfinite().all()):
        yield error("not-finite", ".".join(module), "what becomes of the base model's weight is NaN or infinite",
                    "The file or the base is broken.")  # fmt: skip
