"""read: what lies at a path, from headers alone; the bytes of tensors come when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapterhub.files.containers import Opened, closing_on_error, open_source
from adapterhub.files.directories import read_documents, require_variant, survey, variants_of
from adapterhub.files.folder import INDEX, Folder
from adapterhub.files.limits import LIMITS, Limits
from adapterhub.files.opened import is_index, open_model, open_part
from adapterhub.files.package import DIRECTORY, SHARDED, Package, Problem
from adapterhub.files.source import Elsewhere, Range, Source


def read(path: Path, *, limits: Limits = LIMITS, variant: str | None = None, strict: bool = True) -> Package:
    """The package at `path`: a safetensors or torch file, a picture with an embedding in it, an index of shards (`.json`),
    or a folder that holds one or several of these, a pipeline perhaps in the `variant` that is asked for; unless `strict`, what has
    none is read as it is.

    Content decides what a file is; its name only forbids: what is called `.safetensors` is never read as a pickle.
    Raises UsageError where nothing or too much fits, MalformedFile for what breaks a rule, MachineFailure where the
    system refuses.
    """
    path = Path(path)
    folder = Folder(path, variant, strict=strict)
    if os.path.isdir(path):
        return read_folder(folder, limits=limits)
    require_variant(folder, None)
    opened = open_model(path, limits)
    return replace(_package(path, _container(path.name, opened), {path.name: opened}), variant=variant)


def read_folder(folder: Folder, *, limits: Limits = LIMITS) -> Package:
    """The package that `folder` is, wherever it lies."""
    contents, odd = survey(folder, limits)
    documents, problems = read_documents(folder, contents.documents, limits)
    models: dict[str, Opened] = {}
    with closing_on_error([]) as sources:
        for name in contents.weights:
            models[name] = open_part(folder, name, limits)
            sources.extend(models[name].sources.values())
        problems += _unread(models)
    container = DIRECTORY if contents.whole else _container(*next(iter(models.items())))
    package = _package(folder.path, container, models, documents, [*odd, *problems])
    return replace(package, variant=folder.variant)


def read_part(folder: Folder, name: str, *, limits: Limits = LIMITS) -> Package:
    """The model that is called `name` in `folder`, and nothing of what lies beside it but its shards."""
    return _alone(folder.path / name, open_part(folder, name, limits))


def read_source(source: Source, path: Path, *, limits: Limits = LIMITS) -> Package:
    """The package of one file that was opened elsewhere, and lies at `path`."""
    return _alone(path, open_source(source, limits))


def _alone(path: Path, opened: Opened) -> Package:
    with closing_on_error([*opened.sources.values()]):
        return _package(path, _container(path.name, opened), {path.name: opened}, None, _unread({path.name: opened}))


def _unread(models: Mapping[str, Opened]) -> list[Problem]:
    """Has the small tensors of remote models fetched; what to say where that would take too many requests."""
    return [
        Problem("warning", "alphas-not-read", name, "small tensors, alphas among them, lie too far apart to be read without "
                "downloading the file: get it with adapterhub pull")
        for name, model in models.items() if not _fetched(model)
    ]  # fmt: skip


def _fetched(model: Opened) -> bool:
    """Whether the small tensors of all sources are there, each of which is asked."""
    remote = [source for source in model.sources.values() if isinstance(source, Elsewhere)]
    done = [source.fetch(_small(model, source)) for source in remote]
    return all(done)


def _small(model: Opened, source: Source) -> list[tuple[int, int]]:
    """Where the small tensors of `source` lie."""
    ranges = [tensor.chunks for tensor in model.file.tensors.values() if tensor.nbytes <= SMALL]
    return [(found.start, found.length) for found in ranges if isinstance(found, Range) and found.source is source]


SMALL = 16
"""Bytes of a tensor that is a number: an alpha, a scale."""


def opened(given: Path | str | Package, variant: str | None = None, *, strict: bool = True) -> Package:
    """What was opened already, or what lies at a path."""
    return given if isinstance(given, Package) else read(Path(given), variant=variant, strict=strict)


def has_variant(variant: str | None, *paths: Path | str | None) -> bool:
    """Whether any of the folders at `paths` has weights of the variant."""
    return variant is not None and any(variant in variants_of(Path(path)) for path in paths if path is not None)


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
        _paths(models),
        sources,
    )


def _paths(models: Mapping[str, Opened]) -> dict[str, Path]:
    """Of what is on this disk: nobody opens anything else by its path."""
    every = ((_beside(name, part), source) for name, model in models.items() for part, source in model.sources.items())
    return {name: source.path for name, source in every if not isinstance(source, Elsewhere)}


def _container(name: str, model: Opened) -> str:
    return SHARDED if is_index(name) else model.file.container


def _joined(name: str) -> str:
    """The name of the whole that an index joins: without `.index` and `.json`, its variant where that of a file stands."""
    if (found := INDEX.search(name)) is not None:
        variant = (found[2] or found[3] or "").strip(".")
        return name[: found.start()] + (f".{variant}" if variant else "") + found[1]
    return name.removesuffix(".json") if is_index(name) else name


def _beside(name: str, part: str) -> str:
    folder, slash, _ = name.rpartition("/")
    return folder + slash + part


def _within(name: str, problem: Problem, models: Mapping[str, Opened]) -> Problem:
    return replace(problem, where=f"{name}: {problem.where}") if len(models) > 1 else problem
