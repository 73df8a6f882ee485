"""Several files as one source, so that one ledger tells what became of all their tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from adapterhub.adapter import Key, Module, Role
from adapterhub.errors import RefusedInput
from adapterhub.layouts.base import Reading
from adapterhub.metadata import HASHED
from adapterhub.operations.lora.alphas import FIELD
from adapterhub.operations.source import Source

_ITS_OWN = HASHED | {FIELD, "modelspec.title", "modelspec.date", "modelspec.thumbnail"}
"""Fields that are about one file, and not about what is made of it."""


def join(opened: Sequence[Source], target: Path | str) -> Source:
    """All inputs as one at `target`: their modules labelled, and the fields kept in which they agree.

    RefusedInput where they are for different architectures.
    """
    first = opened[0]
    _ensure_alike(opened)
    readings = [source.reading for source in opened]
    modules = {
        labelled(n, module): roles for n, reading in enumerate(readings) for module, roles in reading.modules.items()
    }
    names = {
        labelled(n, module): {role: _place(source, name) for role, name in named.items()}
        for n, source in enumerate(opened)
        for module, named in source.reading.names.items()
    }
    reading = Reading(first.reading.kind, first.reading.architecture, modules, names, _agreed(readings), {})
    packages = [source.package for source in opened]
    package = replace(
        packages[0],
        path=Path(target),
        problems=tuple(problem for package in packages for problem in package.problems),
        paths={str(path): path for package in packages for path in package.paths.values()},
        sources=tuple(source for package in packages for source in package.sources),
    )
    problems = tuple(problem.model_copy(update={"where": _place(source, problem.where)})
                     for source in opened for problem in source.problems)  # fmt: skip
    return Source(package, first.identity, reading, problems)


def _ensure_alike(opened: Sequence[Source]) -> None:
    if len({source.adapter.architecture for source in opened}) > 1:
        each = ", ".join(f"{source.package.path} is for {source.adapter.architecture}" for source in opened)
        raise RefusedInput(f"what is for different models has no sum: {each}")


def labelled(number: int, module: Module) -> Module:
    """What a module of an input is called among those of all."""
    return Module(module.component, f"{number}:{module.module}")


def label_of(module: Module) -> tuple[int, Module]:
    """Of which input a labelled module is, and what it is called there."""
    number, _, path = module.module.partition(":")
    return int(number), Module(module.component, path)


def keys(number: int, module: Module, roles: Iterable[Role]) -> list[Key]:
    """What tensors of a module of an input are called among those of all."""
    return [Key(*labelled(number, module), role) for role in roles]


def _agreed(readings: Sequence[Reading]) -> dict[str, str]:
    return {name: text for name, text in readings[0].metadata.items()
            if name not in _ITS_OWN and all(reading.metadata.get(name) == text for reading in readings)}  # fmt: skip


def _place(source: Source, name: str) -> str:
    """Where a tensor lies, among those of several sources."""
    return f"{source.package.path}:{name}"
