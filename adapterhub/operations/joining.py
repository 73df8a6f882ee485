"""Several files as one source, so that one ledger tells what became of all their tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from adapterhub.adapter import Module
from adapterhub.documents import Problem
from adapterhub.layouts.base import Reading
from adapterhub.operations.source import Source


def joined(
    opened: Sequence[Source], target: Path | str, labelled: Callable[[int, Module], Module], own: Collection[str]
) -> Source:
    """All inputs as one at `target`: each module `labelled` with the number of its input, and the fields kept in which the inputs
    agree, but for those that are a file's `own`.
    """
    readings = [source.reading for source in opened]
    modules = {
        labelled(n, module): roles for n, reading in enumerate(readings) for module, roles in reading.modules.items()
    }
    names = {
        labelled(n, module): {role: place(source, name) for role, name in named.items()}
        for n, source in enumerate(opened)
        for module, named in source.reading.names.items()
    }
    packages = [source.package for source in opened]
    package = replace(
        packages[0],
        path=Path(target),
        problems=tuple(problem for package in packages for problem in package.problems),
        paths={str(path): path for package in packages for path in package.paths.values()},
        sources=tuple(source for package in packages for source in package.sources),
    )
    reading = replace(readings[0], modules=modules, names=names, metadata=_agreed(readings, own))
    return Source(package, opened[0].identity, reading, tuple(one for source in opened for one in problems_of(source)))


def problems_of(source: Source) -> Iterator[Problem]:
    """What is odd about one of several sources, each with the file that it is about."""
    for one in source.problems:
        yield Problem(**{**dict(one), "where": place(source, one.where)})


def _agreed(readings: Sequence[Reading], own: Collection[str]) -> dict[str, str]:
    return {name: text for name, text in readings[0].metadata.items()
            if name not in own and all(reading.metadata.get(name) == text for reading in readings)}  # fmt: skip


def place(source: Source, name: str) -> str:
    """Where a tensor lies, among those of several sources."""
    return f"{source.package.path}:{name}" if name else str(source.package.path)
