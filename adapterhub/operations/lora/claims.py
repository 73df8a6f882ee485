"""What a file says about itself, held against its tensors: metadata, the hashes in it, and PEFT's configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import adapterhub.architectures as architectures
from adapterhub import files
from adapterhub.adapter import Module, Role, Roles
from adapterhub.algorithms import rank_of
from adapterhub.documents import Problem
from adapterhub.files import File, Package
from adapterhub.layouts.base import Reading
from adapterhub.layouts.lora.diffusers import FIELD
from adapterhub.layouts.lora.identity import told_architecture
from adapterhub.layouts.lora.placing import Fit
from adapterhub.metadata import contradictions
from adapterhub.operations.header.private import local_path
from adapterhub.operations.lora.configs import configs
from adapterhub.operations.problems import warning

R = Role
_RENEW = "adapterhub convert writes what is true."
_JSON = (FIELD, "ot_config", "ss_bucket_info", "ss_dataset_dirs", "ss_datasets", "ss_network_args", "ss_reg_dataset_dirs",
         "ss_tag_frequency")  # fmt: skip
"""Fields that hold JSON wherever they are written (Kohya, diffusers, OneTrainer)."""
_ABSENT = ("", "None", "{}")
_HASH_OF_NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
_HEX = re.compile(r"(0x)?([0-9a-fA-F]{64})")
_LITERAL = re.compile(r"[\w.\-]+")


def claims(package: Package, fit: Fit, reading: Reading, alphas: Mapping[Module, float]) -> Iterator[Problem]:
    """Everything that a LoRA claims and is not so, and what it tells that it had better not."""
    for field, text in _fields(package):
        yield from _text(field, text)
    for name, document in package.documents.items():
        yield from _private(name, json.dumps(document, ensure_ascii=False).replace("\\\\", "\\"))
    yield from hashes(package)
    yield from _numbers(package, fit, reading, alphas)
    for place, component, config in configs(package, fit):
        yield from _config(place, config, {path: tensors for (owner, path), tensors in reading.modules.items()
                                           if owner == component})  # fmt: skip


def _fields(package: Package) -> Iterator[tuple[str, str]]:
    """Metadata fields, behind the name of their file where there are several."""
    for name, file in package.files.items():
        for field, text in file.metadata.items():
            yield field if len(package.files) == 1 else f"{name}: {field}", text


def _text(field: str, text: str) -> Iterator[Problem]:
    if field.rpartition(": ")[2] in _JSON and text not in _ABSENT:
        try:
            json.loads(text)
        except (ValueError, RecursionError) as fault:
            yield warning("metadata-json", field, f"is no JSON, which its readers expect: {fault}",
                          "It was cut or edited: take it out, or write it anew.")  # fmt: skip
    yield from _private(field, text)


def _private(place: str, text: str) -> Iterator[Problem]:
    if found := local_path(text):
        yield warning("private-path", place, f"names a folder of somebody's machine: {found[:80]}",
                      "Before you share the file: adapterhub metadata --clean-private shortens it.")  # fmt: skip


def hashes(package: Package) -> Iterator[Problem]:
    """Stored hashes of the data that are not its hash. LyCORIS' own (`0x…`, in the order of a state dict) cannot be checked."""
    hash_of = cache(files.data_sha256)  # both fields ask for it, and it reads the whole file
    for name, file in package.files.items():
        if name not in package.paths:
            continue  # shards
        stored = file.metadata.get("sshs_model_hash")
        if stored is not None and not stored.startswith("0x"):
            yield from _hash("sshs_model_hash", stored, [hash_of(package.paths[name])])
        stored = file.metadata.get("modelspec.hash_sha256")
        if stored is not None:
            yield from _hash("modelspec.hash_sha256", stored, _modelspec_hashes(hash_of, package.paths[name], file))


def _modelspec_hashes(hash_of: Callable[[Path], str], path: Path, file: File) -> Iterator[str]:
    """The specification's hash, then OneTrainer's, which takes the tensors by name."""
    import hashlib

    yield hash_of(path)
    digest = hashlib.sha256()
    for key in sorted(file.tensors):
        for chunk in file.tensors[key].chunks():
            digest.update(chunk)
    yield digest.hexdigest()


def _hash(field: str, stored: str, true: Iterable[str]) -> Iterator[Problem]:
    told = _HEX.fullmatch(stored)
    if told is None:
        yield warning("untrue-hash", field, f"is no SHA-256: {stored[:80]}", _RENEW)
    elif told[2].lower() not in true:
        nothing = ", but that of no bytes at all" if told[2].lower() == _HASH_OF_NOTHING else ""
        yield warning("untrue-hash", field, f"{stored[:12]}… is not the hash of the tensors{nothing}",
                      "The tensors were changed since: " + _RENEW)  # fmt: skip


def _numbers(package: Package, fit: Fit, reading: Reading, alphas: Mapping[Module, float]) -> Iterator[Problem]:
    """Kohya's rank and alpha, and ModelSpec's architecture where no identification has used it."""
    told = told_architecture(package)
    every = reading.modules.values()
    # LyCORIS leaves the factors of a LoKr whole, without a rank, where the rank asked for is too large
    whole = not any(R.LOKR_W2 in tensors for tensors in every)
    ranks = {rank for tensors in every if whole and (rank := rank_of(tensors)) is not None}
    for field, message in contradictions(reading.metadata, ranks, architectures.get(fit.architecture)):
        if field != "modelspec.architecture" or told in (None, fit.architecture):
            yield warning("metadata-contradicts", field, message, _RENEW)
    alpha = _float(reading.metadata.get("ss_network_alpha"))
    if whole and alpha and alphas and not any(abs(alpha - found) <= abs(alpha) / 128 for found in alphas.values()):
        stored = ", ".join(f"{found:.6g}" for found in sorted(set(alphas.values()))[:8])
        yield warning("metadata-contradicts", "ss_network_alpha", f"says {alpha:.6g}, and the alphas are {stored}",
                      "Readers go by the tensors.")  # fmt: skip


def _float(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _config(place: str, config: Mapping[str, Any], modules: Mapping[str, Roles]) -> Iterator[Problem]:
    kind = str(config.get("peft_type") or "LORA").upper()
    ranks = {rank for tensors in modules.values() if (rank := rank_of(tensors)) is not None}
    told = [rank for rank in (config.get("r"), *_pattern(config, "rank_pattern").values()) if isinstance(rank, int)]
    if told and ranks and kind != "ADALORA" and not ranks <= set(told):
        message = f"r is {_list(set(told))}, and the ranks are {_list(ranks)}"
        yield warning("metadata-contradicts", place, message, _RENEW)
    yield from _targets(place, config, modules)


def _targets(place: str, config: Mapping[str, Any], modules: Mapping[str, Roles]) -> Iterator[Problem]:
    """Literal targets only: regular expressions of a file are never run."""
    listed = config.get("target_modules")
    targets = set(map(str, listed)) if isinstance(listed, list) else set()
    names = targets.union(_pattern(config, "rank_pattern"), _pattern(config, "alpha_pattern"))
    endings = {path: _endings(path) for path in modules}
    if absent := {name for name in names.difference(*endings.values()) if _LITERAL.fullmatch(name)}:
        message = f"names modules that the file does not change: {_list(absent)}"
        yield warning("metadata-contradicts", place, message, _RENEW)
    unnamed = {path for path in modules if targets.isdisjoint(endings[path])}
    if unnamed and targets and all(map(_LITERAL.fullmatch, targets)):
        message = f"target_modules leaves out, and PEFT with it, modules that the file changes: {_list(unnamed)}"
        yield warning("metadata-contradicts", place, message, _RENEW)


def _pattern(config: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    value = config.get(field)
    return value if isinstance(value, dict) else {}


def _endings(path: str) -> set[str]:
    """Every end of a module's path, which is what PEFT's targets are."""
    steps = path.split(".")
    return {".".join(steps[start:]) for start in range(len(steps))}


def _list(values: Iterable[Any]) -> str:
    ordered = sorted(values)
    return ", ".join(map(str, ordered[:4])) + (f" and {len(ordered) - 4} more" if len(ordered) > 4 else "")
