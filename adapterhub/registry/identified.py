"""What the index keeps of a file, worked out in one of its processes: identification by `inspect`, facts of header and
side-cars, and what follows from both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.errors import MachineFailure, RefusedInput, UsageError
from adapterhub.files import Problem
from adapterhub.registry.facts import Fact, Listing, of_application, of_header
from adapterhub.registry.facts import read as sidecars
from adapterhub.registry.places import Found, OnDisk

if TYPE_CHECKING:
    from adapterhub.documents import Inspection

COLUMNS = ("kind", "container", "layout", "architecture", "variant", "tensors", "parameters")
"""The fields of an Inspection that are columns of `records`."""
DETAILS = ("also", "evidence", "algorithms", "components", "ranks", "alphas", "dtypes", "tokens", "vectors", "structure", "parts",
           "extras", "problems")  # fmt: skip
"""Those that stand in `details`."""
LONGEST = 64 << 10
"""Characters of a metadata field that are kept; the file has the rest."""
_PICTURES = (".png", ".webp")


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be looked at; `known` says that it was before."""

    found: Found
    known: bool
    beside: tuple[OnDisk, ...] = ()
    """Its side-cars and previews."""
    only_beside: bool = False
    """Whether it is as it was, and only what lies beside it changed."""


@dataclass(frozen=True, slots=True)
class Identified:
    """The columns of a record and the rows that belong to it; `passed` says that the file holds nothing of ours."""

    columns: Mapping[str, Any]
    metadata: str = "{}"
    traits: tuple[tuple[str, str], ...] = ()
    facts: tuple[Fact, ...] = ()
    odd: tuple[Problem, ...] = ()
    """What is wrong with side-cars."""
    passed: bool = False
    failed: str | None = None
    """Why it could not be read; it is tried again next time."""


def looked_at(tasks: Sequence[Task]) -> list[tuple[Task, Identified]]:
    """What a process does."""
    return [(task, _looked_at(task)) for task in tasks]


def _looked_at(task: Task) -> Identified:
    """Identified, with what the application and the side-cars say."""
    found = Identified({}) if task.only_beside else identify(task.found.path)
    if found.passed or found.failed:
        return found
    listing = Listing(task.found.path.parent, [task.found.path.name, *(file.path.name for file in task.beside)])
    said = sidecars(task.found.path, listing)
    facts = [*said.facts, *of_application(task.found.told)]
    return replace(found, facts=(*found.facts, *facts), odd=said.problems)


def identify(path: Path) -> Identified:
    """What lies at `path`. Whatever it is, this raises nothing: the other files are still to be looked at."""
    from adapterhub.operations.inspect import inspect

    try:
        found = inspect(path)
    except UsageError as error:
        return Identified({}, passed=True) if path.exists() else Identified({}, failed=error.message)
    except MachineFailure as error:
        return Identified({}, failed=error.message)
    except RefusedInput as error:
        if path.suffix.lower() in _PICTURES:
            return Identified({}, passed=True)
        return Identified(
            {"kind": "unknown", "refused": getattr(error, "rule", "broken-adapter"), "reason": str(error)}
        )
    except Exception as error:  # noqa: BLE001
        return Identified({}, failed=f"{type(error).__name__}: {error}")
    if found.kind == "unknown" and path.suffix.lower() in _PICTURES:
        return Identified({}, passed=True)
    return _identified(found)


def _identified(found: Inspection) -> Identified:
    columns = {name: getattr(found, name) for name in COLUMNS}
    details = found.model_dump_json(include=set(DETAILS), exclude_defaults=True, ensure_ascii=True)
    ranks = [int(rank) for rank in found.ranks if rank.isdigit()]
    columns |= {"kind": str(found.kind), "rank": max(ranks, default=None), "details": details}
    kept = {name: _cut(text) for name, text in found.metadata.items()}
    return Identified(columns, json.dumps(kept), tuple(_traits(found)), tuple(of_header(found.metadata)))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _traits(found: Inspection) -> Iterable[tuple[str, str]]:
    for trait, values in (
        ("algorithm", found.algorithms), ("rank", found.ranks), ("component", found.components), ("dtype", found.dtypes),
        ("token", dict.fromkeys(token.token for token in found.tokens)), ("also", found.also),
        ("problem", dict.fromkeys(problem.code for problem in found.problems)),
    ):  # fmt: skip
        yield from ((trait, value) for value in values)
