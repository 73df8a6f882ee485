"""read: what lies at a path, from headers alone; the bytes of tensors come when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapterhub.files.beside import inside
from adapterhub.files.containers import Opened, closing_on_error
from adapterhub.files.directories import read_documents, survey
from adapterhub.files.limits import LIMITS, Limits
from adapterhub.files.opened import is_index, open_model
from adapterhub.files.package import DIRECTORY, SHARDED, Package, Problem


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
