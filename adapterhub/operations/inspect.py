"""`inspect`: what a file is, from its header; alphas, a few bytes each, are the only values that it reads unasked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import adapterhub.layouts as layouts
from adapterhub import files
from adapterhub.adapter import Adapter, Key, Kind, Module, Role
from adapterhub.documents import Container, Hashes, Inspection, ListedTensor, Problem
from adapterhub.documents.inspection import Audit
from adapterhub.errors import UsageError
from adapterhub.files import Package
from adapterhub.layouts.base import Reading
from adapterhub.layouts.identity import Identity
from adapterhub.operations import work
from adapterhub.operations.problems import grouped, warning
from adapterhub.operations.source import decoded, titled, warnings_of

if TYPE_CHECKING:
    from adapterhub.fingerprint import Weights


def inspect(
    path: Path | str | Package,
    *,
    hash: bool = False,  # noqa: A002 (--hash)
    tensors: bool = False,
    spectrum: bool = False,
    base: Path | str | None = None,
    variant: str | None = None,
) -> Inspection:
    """What the file or folder at `path`, or the package that was opened, is: kind, layout, architecture, algorithms, ranks, metadata, problems.

    `hash` adds the fingerprint and every digest that people quote, which reads the whole file; `tensors` lists all keys.
    `spectrum` measures what a LoRA does to each weight, in relation to the weights of `base` if that is given. `variant` is
    that of each pipeline's folder whose weights are there in several.
    A well-formed file that is no adapter is kind `unknown`; a malformed one raises MalformedFile.
    """
    if base is not None and not spectrum:
        raise UsageError("a base is only compared with where a spectrum is asked for", mend="Add --spectrum.")
    with files.opened(path, variant, strict=not files.has_variant(variant, base)) as package:
        identity = layouts.identify(package)
        reading, broken = decoded(package, identity)
        fields: dict[str, Any] = {"metadata": _metadata(package)}
        problems = warnings_of(package)
        if reading is not None:
            told, odd = work.of(identity.kind).examine(package, identity, reading)
            fields |= told
            problems += odd
        if hash:
            told, odd = _hashed(package, reading)
            fields |= told
            problems += odd
        if spectrum and reading is not None and reading.kind is Kind.LORA:
            fields["spectrum"] = _spectrum(reading, base, variant, identity)
        elif spectrum:
            problems.append(
                warning("no-spectrum", "", f"a spectrum is measured of LoRAs, and this is {titled(identity.kind)}")
            )
        if tensors:
            fields["listing"] = _listing(package, reading)
        return Inspection(
            path=str(package.path), size=package.size, kind=identity.kind, container=cast(Container, package.container),
            layout=identity.layout.name if identity.layout else None, architecture=identity.architecture,
            also=list(identity.also), evidence=[*_found(identity), *identity.evidence], **_counted(package),
            problems=[*broken, *grouped(problems)], **fields,
        )  # fmt: skip


def _found(identity: Identity) -> Iterator[str]:
    if identity.foreign is not None:
        yield f"keys of {identity.foreign.title}"


def _counted(package: Package) -> dict[str, Any]:
    every = [tensor for file in package.files.values() for tensor in file.tensors.values()]
    shapes = Counter([tensor.shape for tensor in every])
    return {
        "dtypes": dict(Counter([tensor.dtype for tensor in every])),
        "tensors": len(every),
        "parameters": sum(math.prod(shape) * count for shape, count in shapes.items()),
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


def _spectrum(reading: Reading, base: Path | str | None, variant: str | None, identity: Identity) -> Audit:
    from adapterhub.operations.base import base_of
    from adapterhub.operations.lora.spectrum import audit

    path = None if base is None else Path(base)
    with base_of(path, reading.adapter.architecture, identity.also, variant=variant) as weights:
        return audit(reading.adapter, weights)


def _hashed(package: Package, reading: Reading | None) -> tuple[dict[str, Any], list[Problem]]:
    """The fingerprint, and every digest of contract.md of each file; the bytes of a model in one file are read once for both. Then
    which values are no numbers, of a file whose values are looked at.
    """
    from adapterhub.fingerprint import Weights

    whole = reading is not None and reading.kind is Kind.CHECKPOINT and len(package.paths) == 1
    seen = Weights(reading.adapter) if reading is not None and whole else None
    found = {name: Hashes(**files.every_digest(path, also=() if seen is None else (seen,)))
             for name, path in package.paths.items()}  # fmt: skip
    told = {"hashes": next(iter(found.values()))} if len(found) == 1 else {"file_hashes": found}
    digest, odd = (None, []) if reading is None else _fingerprint(reading.adapter, seen)
    return {**told, "fingerprint": digest}, odd


def _fingerprint(adapter: Adapter, seen: Weights | None) -> tuple[str, list[Problem]]:
    """The fingerprint, and which values are no numbers: of whole models, which hold gigabytes, nobody looks at values."""
    from adapterhub.fingerprint import fingerprint
    from adapterhub.operations.values import heeded, not_finite

    if adapter.kind is Kind.CHECKPOINT:
        return fingerprint(adapter, seen), []
    broken: dict[Module, dict[Role, int]] = {module: {} for module in adapter.modules()}
    heard = {Key(*module, role): tensor for module, roles in adapter.modules().items()
             for role, tensor in heeded(roles, broken[module]).items()}  # fmt: skip
    digest = fingerprint(adapter.with_tensors(heard))
    return digest, [not_finite(".".join(module), found, "warning") for module, found in broken.items() if found]
