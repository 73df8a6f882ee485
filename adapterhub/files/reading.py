"""read: what lies at a path, from headers alone; the bytes of tensors come when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapterhub.files.beside import inside
from adapterhub.files.containers import Opened, closing_on_error, open_source
from adapterhub.files.directories import coded, read_documents, survey
from adapterhub.files.limits import LIMITS, Limits
from adapterhub.files.opened import is_index, open_model
from adapterhub.files.package import DIRECTORY, SHARDED, Package, Problem
from adapterhub.files.source import Address, Elsewhere, Range, Source


def read(path: Path, *, limits: Limits = LIMITS) -> Package:
    """The package at `path`: a safetensors or torch file, a picture with an embedding in it, an index of shards (`.json`),
    or a folder that holds one or several of these.

    Content decides what a file is; its name only forbids: what is called `.safetensors` is never read as a pickle.
    Raises UsageError where nothing or too much fits, MalformedFile for what breaks a rule, MachineFailure where the
    system refuses.
    """
    path = Path(path)
    if os.path.isdir(path):
        return _read_folder(path, limits)
    opened = open_model(path, limits)
    return _package(path, _container(path.name, opened), {path.name: opened})


def read_elsewhere(
    address: Address,
    sources: Mapping[str, Source],
    documents: Mapping[str, Any] | None = None,
    *,
    whole: bool = False,
    limits: Limits = LIMITS,
) -> Package:
    """The package of `sources` and `documents`, by name, that are not on this disk; `whole` as for a folder. It has no paths,
    so that nobody opens them here. Where the small tensors lie too far apart to be read, a problem says so.
    """
    models: dict[str, Opened] = {}
    with closing_on_error(list(sources.values())):
        for name, source in sources.items():
            models[name] = open_source(source, limits)
        problems = [*coded(documents or {}), *(unread for name in models if (unread := _unread(name, models[name])))]
        container = DIRECTORY if whole else _container(*next(iter(models.items())))
        return replace(_package(address, container, models, documents, problems), paths={})


def _unread(name: str, model: Opened) -> Problem | None:
    """Has the small tensors of a remote model fetched; what to say where that would take too many requests."""
    ranges = [tensor.chunks for tensor in model.file.tensors.values() if tensor.nbytes <= SMALL]
    spans = [(found.start, found.length) for found in ranges if isinstance(found, Range)]
    if all(source.fetch(spans) for source in model.sources.values() if isinstance(source, Elsewhere)):
        return None
    return Problem("warning", "alphas-not-read", name, f"{len(spans)} small tensors, alphas among them, lie too far apart to be "
                   "read without downloading the file: get it with adapterhub pull")  # fmt: skip


SMALL = 16
"""Bytes of a tensor that is a number: an alpha, a scale."""


def opened(given: Path | str | Package) -> Package:
    """What was opened already, or what lies at a path."""
    return given if isinstance(given, Package) else read(Path(given))


def _read_folder(path: Path, limits: Limits) -> Package:
    contents, odd = survey(path, limits)
    documents, problems = read_documents(path, contents.documents, limits)
    models: dict[str, Opened] = {}
    with closing_on_error([]) as sources:
        for name in contents.weights:
            real = inside(path, name, path)
            models[name] = open_model(path / name if is_index(name) else real, limits, name=name)
            sources.extend(models[name].sources.values())
    container = DIRECTORY if contents.whole else _container(*next(iter(models.items())))
    return _package(path, container, models, documents, [*odd, *problems])


def _package(
    path: Path,
    container: str,
    models: Mapping[str, Opened],
    documents: Mapping[str, Any] | None = None,
    problems: Iterable[Problem] = (),
) -> Package:
    sources = tuple(source for model in models.values() for source in model.sources.values())
    found = [_within(name, problem, models) for name, model in models.items() for problem in model.problems]
    return Package(
        path,
        container,
        {_joined(name): model.file for name, model in models.items()},
        documents or {},
        (*problems, *found),
        sum(source.size for source in sources),
        {_beside(name, part): source.path for name, model in models.items() for part, source in model.sources.items()},
        sources,
    )


def _container(name: str, model: Opened) -> str:
    return SHARDED if is_index(name) else model.file.container


def _joined(name: str) -> str:
    """The name of the whole that an index joins: without `.index` and `.json`."""
    return name.removesuffix(".json").replace(".index", "") if is_index(name) else name


def _beside(name: str, part: str) -> str:
    folder, slash, _ = name.rpartition("/")
    return folder + slash + part


def _within(name: str, problem: Problem, models: Mapping[str, Opened]) -> Problem:
    return replace(problem, where=f"{name}: {problem.where}") if len(models) > 1 else problem
