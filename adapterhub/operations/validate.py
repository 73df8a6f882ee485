"""`validate`: everything that is wrong or odd about a file, every value looked at, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import adapterhub.layouts as layouts
from adapterhub import files
from adapterhub.adapter import Kind
from adapterhub.documents import Descent, Problem, Validation
from adapterhub.files import Package
from adapterhub.layouts.base import Reading
from adapterhub.layouts.identity import Identity
from adapterhub.operations import work
from adapterhub.operations.problems import grouped, warning
from adapterhub.operations.source import decoded, warnings_of


def validate(
    path: Path | str | Package, *, base: Path | str | None = None, variant: str | None = None, values: bool = True
) -> Validation:
    """Whether the file or folder at `path` is sound: no problem is an error.

    Every value is read, one tensor at a time; of a file of no kind only the container is checked. With `base`, each module
    of an adapter must be there in a fitting shape, and what depends on its weights must come out finite; torch is imported
    for that, and where a change may be beyond float16. A whole model is compared with `base`: `descent` says how far it
    moved from there. `variant` is that of each pipeline's folder whose weights are there in several. A malformed file raises
    MalformedFile. Without `values` only the header is looked at, and a warning says so.
    """
    origin = Path(base) if base is not None else None
    with files.opened(path, variant, strict=not files.has_variant(variant, base)) as package:
        identity = layouts.identify(package)
        reading, problems = decoded(package, identity)
        problems += _problems(package, identity, reading, None if identity.kind is Kind.CHECKPOINT else origin, values)
        descent, found = _descent(reading, origin if values else None, variant)
        problems += found
        package.ensure_unchanged()
    problems = grouped(sorted(problems, key=lambda problem: problem.severity != "error"))
    return Validation(
        path=str(package.path),
        valid=all(problem.severity != "error" for problem in problems),
        kind=identity.kind,
        layout=identity.layout.name if identity.layout else None,
        architecture=identity.architecture,
        problems=problems,
        descent=descent,
    )


def _problems(
    package: Package, identity: Identity, reading: Reading | None, base: Path | None, values: bool
) -> Iterator[Problem]:
    yield from warnings_of(package)
    if identity.kind is Kind.UNKNOWN:
        what = identity.foreign.title if identity.foreign else "no layout explains its keys"
        yield warning("unknown-kind", "", f"{what}: only the container was checked",
                      "adapterhub inspect --tensors lists the keys.")  # fmt: skip
    if reading is not None:
        kind = work.of(identity.kind)
        yield from kind.examine(package, identity, reading)[1]
        if values:
            yield from kind.value_faults(package, identity, reading, base)
    if not values:
        yield warning("values-not-read", "", "only the header was looked at, no value was read",
                      "Get the file with adapterhub pull, and validate that.")  # fmt: skip


def _descent(reading: Reading | None, base: Path | None, variant: str | None) -> tuple[Descent | None, list[Problem]]:
    """Of a whole model: whether it descends from the base."""
    if reading is None or base is None or reading.kind is not Kind.CHECKPOINT:
        return None, []
    from adapterhub.operations.checkpoint.descent import descent

    return descent(reading.adapter, base, variant)
