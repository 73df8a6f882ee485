"""One model as it lies on disk: in one file, or in shards that an index joins."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapterhub.errors import MalformedFile
from adapterhub.files import containers, safetensors
from adapterhub.files.beside import inside, read_document
from adapterhub.files.containers import TORCH, Opened, closing_on_error
from adapterhub.files.limits import Limits
from adapterhub.files.package import SAFETENSORS, File
from adapterhub.tensors import LazyTensor

_OF_TORCH = re.compile(r"\.bin\.(\w+\.)?index(\.\w+)?\.json\Z")
"""The only indexes whose shards may be files of torch."""


def is_index(name: str) -> bool:
    """Whether a file of this name is read as an index of shards."""
    return name.endswith(".json")


def open_file(path: Path, limits: Limits) -> Opened:
    """The safetensors file at `path`, its header read and checked; nothing else is accepted."""
    return containers.open_file(path, limits, among=())


def open_model(path: Path, limits: Limits, *, name: str = "") -> Opened:
    """The model at `path`, called `name` before links were followed: a file, or the shards that an index joins."""
    return open_shards(path, limits) if is_index(name or path.name) else containers.open_file(path, limits, name=name)


def open_shards(path: Path, limits: Limits) -> Opened:
    """The shards that the index at `path` names, joined in the order of their names."""
    index = read_document(path, limits)
    weight_map = _weight_map(index, path)
    among = TORCH if _OF_TORCH.search(path.name) else ()
    parts: dict[str, Opened] = {}
    with closing_on_error([]) as sources:
        for name in sorted(set(weight_map.values())):
            shard = inside(path.parent, name, path)
            if not os.path.exists(shard):  # False for a name that no file can have, where Path.exists raises
                raise MalformedFile(path, "missing-shard", f"the shard {name!r} is not there", mend="Get it too.")
            parts[name] = containers.open_file(shard, limits, name=name, among=among)
            sources.extend(parts[name].sources.values())
        tensors = _join({name: part.file.tensors for name, part in parts.items()}, weight_map, path)
        _require_total(index, tensors, path)
        metadata = {key: text for part in parts.values() for key, text in part.file.metadata.items()}
        problems = tuple(problem for part in parts.values() for problem in part.problems)
        container = next((part.file.container for part in parts.values()), SAFETENSORS)
        file = File(tensors, metadata, container=container)
        return Opened(file, problems, dict(zip(parts, sources, strict=True)))


def _weight_map(index: Any, path: Path) -> dict[str, str]:
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise MalformedFile(
            path, "not-an-index", "a JSON file, but no index of shards (weight_map: name → file)",
            mend="Give the weights themselves, or their folder.",
        )  # fmt: skip
    return weight_map


def _join(
    shards: Mapping[str, Mapping[str, LazyTensor]], weight_map: Mapping[str, str], path: Path
) -> dict[str, LazyTensor]:
    """All tensors of all shards. Each must lie in one shard, the one that the index names, and in no other."""
    joined: dict[str, LazyTensor] = {}
    for shard, tensors in shards.items():
        for name, tensor in tensors.items():
            if name in joined:
                raise _broken(path, "tensor-in-two-shards", [name], f"lie in two shards, one of them {shard!r}")
            joined[name] = tensor
        if strays := [name for name in tensors if weight_map.get(name) != shard]:
            raise _broken(path, "tensor-not-in-index", strays, f"lie in {shard!r}, where the index does not put them")
    if missing := [name for name in weight_map if name not in joined]:
        raise _broken(path, "tensor-missing", missing, "stand in the index and in no shard")
    return joined


def _broken(path: Path, rule: str, names: Sequence[str], what: str) -> MalformedFile:
    first = ", ".join(safetensors.shown(name) for name in names[:3])
    return MalformedFile(
        path, rule, f"{len(names)} tensors {what}: {first}", mend="The shards are of different models: get all again."
    )


def _require_total(index: dict[str, Any], tensors: Mapping[str, LazyTensor], path: Path) -> None:
    metadata = index.get("metadata")
    stated = metadata.get("total_size") if isinstance(metadata, dict) else None
    totals = _totals(tensors, path)
    if stated is not None and stated not in totals:
        raise MalformedFile(
            path, "total-size", f"the index counts {stated!r} bytes of tensors, the shards hold {totals[0]}",
            mend="Get the index and all shards again.",
        )  # fmt: skip


def _totals(tensors: Mapping[str, LazyTensor], path: Path) -> list[int]:
    """What an index may count: the bytes of all tensors or, as huggingface_hub does for torch (`serialization/_torch.py`),
    those of their storages, each once.
    """
    total = sum(tensor.nbytes for tensor in tensors.values())
    if not _OF_TORCH.search(path.name):
        return [total]
    from adapterhub.files.pickles.tensors import stored_bytes

    return [total, stored_bytes(tensors.values())]
