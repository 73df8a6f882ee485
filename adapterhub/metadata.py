"""Metadata across layouts: what a new file must say anew, and what the ecosystem's readers filter by. All else is carried.

Sources: Stability-AI/ModelSpec 1.0.1; Kohya's `ss_*` and `sshs_*` (`networks/lora.py`, `library/train_util.py`); Forge
filters by the exact `modelspec.architecture` strings.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import adapterhub.architectures as architectures
from adapterhub.adapter import Kind
from adapterhub.architectures import Architecture
from adapterhub.files import DIGEST

SPEC = "1.0.1"
# Hashes of the tensor data, as a template around the digest. `sshs_legacy_hash` covers bytes of the old header too and
# cannot be made true, so it goes.
_SPEC_HASH = "modelspec.hash_sha256"
_HASHES = {"sshs_model_hash": DIGEST, _SPEC_HASH: f"0x{DIGEST}"}
HASHED = frozenset(_HASHES)
"""Fields whose DIGEST the writer replaces by the sha256 of the tensor data."""

PREDICTION = "modelspec.prediction_type"
ENDINGS = {Kind.LORA: "/lora", Kind.EMBEDDING: "/textual-inversion", Kind.HYPERNETWORK: "/hypernetwork",
          Kind.CHECKPOINT: ""}  # fmt: skip
"""ModelSpec's endings of an architecture's id; it has none for hypernetworks, and the rule gives one."""
_KOHYA = ("ss_base_model_version", "ss_v2")
_UNTRUE_AFTER_A_CHANGE = ("sshs_legacy_hash",)


def renewed(metadata: Mapping[str, str], model: Architecture, title: str, kind: Kind = Kind.LORA) -> dict[str, str]:
    """The metadata of a new file for `model`: what readers filter by is there and true, the rest as it was.

    `title` is used where the old file had none. What names the same model otherwise stays (SD 2's v-prediction twin,
    "sdxl_…"). A1111 takes any file with metadata for SD 1 unless Kohya's two fields say something else.
    """
    fields = {name: text for name, text in metadata.items() if name not in _UNTRUE_AFTER_A_CHANGE}
    ids = _ids(fields.get(PREDICTION), model)
    if not _is_told(fields.get("modelspec.architecture", ""), ids, kind):
        fields["modelspec.architecture"] = f"{ids[0]}{ENDINGS[kind]}"
    fields.setdefault("modelspec.sai_model_spec", SPEC)
    fields.setdefault("modelspec.implementation", model.told.implementation)
    fields.setdefault("modelspec.title", utf8(title))
    if kind is Kind.CHECKPOINT:  # a hash in front of what it covers would take gigabytes to be hashed twice
        return {name: text for name, text in fields.items() if name not in HASHED}
    if kind is not Kind.LORA:
        return {**fields, _SPEC_HASH: _HASHES[_SPEC_HASH]}
    if claimed({name: text for name, text in fields.items() if name in _KOHYA}) != model.name:
        fields |= {"ss_base_model_version": model.told.base_model_version[0], "ss_v2": model.told.v2}
    return {**fields, **_HASHES}


def utf8(name: str) -> str:
    """What a file is called, as metadata can hold it: bytes that are no UTF-8 are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def claimed(metadata: Mapping[str, str]) -> str | None:
    """The architecture that metadata claims: by ModelSpec, else by Kohya's or ai-toolkit's base model, else by `ss_v2`."""
    id_ = metadata.get("modelspec.architecture", "").partition("/")[0].lower()
    if id_ in _by_id():
        return _by_id()[id_]
    base = (metadata.get("ss_base_model_version") or metadata.get("ss_base_model") or "").lower()
    for start, name in _by_beginning():
        if base.startswith(start):
            return name
    if "ss_v2" not in metadata:
        return None
    return "sd2" if metadata["ss_v2"].lower() == "true" else "sd1"


def contradictions(metadata: Mapping[str, str], ranks: set[int], model: Architecture) -> list[tuple[str, str]]:
    """(field, message) where metadata says something that the tensors deny."""
    found = []
    dim = metadata.get("ss_network_dim", "")
    if dim.isdigit() and ranks and int(dim) not in ranks:
        found.append(("ss_network_dim", f"says {dim}, and the ranks are {', '.join(map(str, sorted(ranks)))}"))
    told = metadata.get("modelspec.architecture")
    if told and told.partition("/")[0] not in model.told.modelspec:
        found.append(("modelspec.architecture", f"says {told!r}, and the tensors fit {model.modelspec}"))
    return found


def _ids(predicts: str | None, model: Architecture) -> Sequence[str]:
    """ModelSpec's ids that are true of `model`; those of SD 2 say what it predicts."""
    ids = model.told.modelspec
    return [id_ for id_ in ids if predicts is None or id_.endswith("-v") == (predicts == "v")] or ids


def _is_told(id_: str, ids: Sequence[str], kind: Kind) -> bool:
    """Whether an id is one of `ids`, spelled as Forge compares it."""
    return id_.endswith(ENDINGS[kind]) and id_.removesuffix(ENDINGS[kind]) in ids


@cache
def _by_id() -> dict[str, str]:
    return {id_: model.name for model in _models() for id_ in model.told.modelspec}


@cache
def _by_beginning() -> list[tuple[str, str]]:
    """The longest first."""
    begins = [(start, model.name) for model in _models() for start in model.told.base_model_version]
    return sorted(begins, key=lambda row: -len(row[0]))


def _models() -> list[Architecture]:
    return [architectures.get(name) for name in architectures.NAMES]


class _Called(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """The command `metadata`, which has the name of this module."""
        return import_module("adapterhub.operations.header.edit").metadata(*arguments, **options)


sys.modules[__name__].__class__ = _Called
