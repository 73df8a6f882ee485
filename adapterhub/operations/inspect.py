"""`inspect`: what a file is, from its header; alphas, a few bytes each, are the only values that it reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import adapterhub.layouts as layouts
from adapterhub import files
from adapterhub.adapter import Key, Kind, Module, Role, Roles
from adapterhub.algorithms import algorithm_of, label, rank_of
from adapterhub.documents import Container, Hashes, Inspection, ListedTensor, Problem
from adapterhub.files import Package
from adapterhub.layouts.base import Reading
from adapterhub.layouts.embeddings import embedding_in
from adapterhub.layouts.identity import Identity
from adapterhub.operations.faults import alpha_faults, alphas, decoded, faults
from adapterhub.operations.problems import grouped
from adapterhub.operations.source import warnings_of


def inspect(path: Path | str, *, hash: bool = False, tensors: bool = False) -> Inspection:  # noqa: A002 (--hash)
    """What the file or folder at `path` is: kind, layout, architecture, algorithms, ranks, metadata, problems.

    `hash` adds the fingerprint and every digest that people quote, which reads the whole file; `tensors` lists all keys.
    A well-formed file that is no adapter is kind `unknown`; a malformed one raises MalformedFile.
    """
    with files.read(Path(path)) as package:
        identity = layouts.identify(package)
        reading, broken = decoded(package, identity)
        found = alphas(reading.modules) if reading else {}
        fields: dict[str, Any] = {}
        if identity.fit is not None:
            whole = not identity.mixed and not identity.fit.unplaced
            fields = {
                "layout": identity.fit.layout.name if whole else None,
                "architecture": None if identity.mixed else identity.fit.architecture,
                "variant": identity.fit.variant,
                **(_described(reading, found) if reading else {}),
            }
        elif identity.kind is Kind.EMBEDDING:
            fields = _embedding(package)
        if hash:
            fields |= {"hashes": hashes(package), "fingerprint": _fingerprint(reading)}
        if tensors:
            fields["listing"] = _listing(package, reading)
        return Inspection(
            path=str(path), size=package.size, kind=identity.kind, container=cast(Container, package.container),
            evidence=[*_found(identity), *identity.evidence], **_counted(package),
            metadata=_metadata(package), problems=[*broken, *grouped(problems_of(package, identity, reading, found))], **fields,
        )  # fmt: skip


def problems_of(
    package: Package, identity: Identity, reading: Reading | None, found: Mapping[Module, float]
) -> list[Problem]:
    """What the header and the alphas `found` tell, of the container and of the adapter."""
    if identity.fit is None or reading is None:
        return warnings_of(package)
    odd = alpha_faults(identity.fit.layout, reading.modules, found)
    return [*warnings_of(package), *faults(package, identity, reading), *odd]


def _found(identity: Identity) -> Iterator[str]:
    if identity.foreign is not None:
        yield f"keys of {identity.foreign.title}"


def _described(reading: Reading, found: Mapping[Module, float]) -> dict[str, Any]:
    """Modules counted by algorithm, component, rank and alpha."""
    modules = reading.modules
    changed = {module: roles for module, roles in modules.items() if Role.VECTORS not in roles}
    ranks = Counter(str(rank) for roles in changed.values() if (rank := rank_of(roles)) is not None)
    return {
        "algorithms": dict(Counter(_label(roles) for roles in changed.values())),
        "components": dict(Counter(module.component for module in changed)),
        "ranks": dict(ranks),
        "alphas": dict(Counter(map(_shown, found.values()))),
    }


def _embedding(package: Package) -> dict[str, Any]:
    embedding = embedding_in(package)
    if embedding is None:
        return {}
    layout, architecture, token = embedding
    return {"layout": layout, "architecture": architecture, "tokens": [token], "vectors": token.vectors}


def _label(roles: Roles) -> str:
    algorithm = algorithm_of(roles)
    return label(roles, algorithm) if algorithm else "unknown"


def _shown(value: float) -> str:
    return f"{value:.6g}"


def _counted(package: Package) -> dict[str, Any]:
    every = [tensor for file in package.files.values() for tensor in file.tensors.values()]
    return {
        "dtypes": dict(Counter(tensor.dtype for tensor in every)),
        "tensors": len(every),
        "parameters": sum(tensor.size for tensor in every),
    }


def _metadata(package: Package) -> dict[str, str]:
    return {name: text for file in package.files.values() for name, text in file.metadata.items()}


def _listing(package: Package, reading: Reading | None) -> list[ListedTensor]:
    keys: Mapping[str, Key] = {place: key for key, place in reading.places.items()} if reading else {}
    several = len(package.files) > 1
    listed = []
    for file_name, file in package.files.items():
        for name, tensor in file.tensors.items():
            place = f"{file_name}:{name}" if several else name
            key = keys.get(place)
            told = {"component": key.component, "module": key.module, "role": str(key.role)} if key else {}
            listed.append(ListedTensor(name=place, dtype=tensor.dtype, shape=list(tensor.shape), **told))
    return listed


def _fingerprint(reading: Reading | None) -> str | None:
    from adapterhub.fingerprint import fingerprint

    return fingerprint(reading.adapter) if reading is not None else None


def hashes(package: Package) -> Hashes | None:
    """Every digest of contract.md of a single file, in one pass; None for several."""
    if len(package.paths) != 1:
        return None
    (path,) = package.paths.values()
    return Hashes(**files.every_digest(path))
