"""One model as it lies on disk: in one file, or in shards that an index joins."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapterhub.errors import MalformedFile
from adapterhub.files import containers, safetensors
from adapterhub.files.beside import read_document
from adapterhub.files.containers import TORCH, Opened, closing_on_error
from adapterhub.files.folder import Folder
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


def open_model(path: Path, limits: Limits) -> Opened:
    """The model at `path`: a file, or the shards that an index joins."""
    if is_index(path.name):
        return open_shards(read_document(path, limits), path, Folder(path.parent), limits)
    return containers.open_file(path, limits)


def open_part(folder: Folder, name: str, limits: Limits) -> Opened:
    """The model that is called `name` in `folder` or below."""
    if not is_index(name):
        return folder.open(name, limits)
    return open_shards(folder.document(name, limits), folder.path / name, part_of(folder, name), limits)


def part_of(folder: Folder, name: str) -> Folder:
    """The folder in which `name` lies: in which an index looks for its shards."""
    return folder.part(name.rpartition("/")[0])


def shards_of(index: Any, path: Path, folder: Folder, limits: Limits) -> list[str]:
    """The names of the shards of the `index` at `path`, all of which are in `folder`; MalformedFile where they are not."""
    names = sorted(set(_weight_map(index, path).values()))
    if len(names) > limits.shards:
        raise MalformedFile(path, "too-many-shards", f"an index of {len(names)} shards, above the limit of {limits.shards}",
                            mend="No model has so many: get the index again.")  # fmt: skip
    for name in names:
        if not folder.holds(name, path):
            raise MalformedFile(path, "missing-shard", f"the shard {name!r} is not there", mend="Get it too.")
    return names


def open_shards(index: Any, path: Path, folder: Folder, limits: Limits) -> Opened:
    """The shards that the `index` at `path` names, which lie in `folder`, joined in the order of their names."""
    among = TORCH if _OF_TORCH.search(path.name) else ()
    parts: dict[str, Opened] = {}
    with closing_on_error([]) as sources:
        for name in shards_of(index, path, folder, limits):
            parts[name] = folder.open(name, limits, among=among, by=path)
            sources.extend(parts[name].sources.values())
        tensors = _join({name: part.file.tensors for name, part in parts.items()}, _weight_map(index, path), path)
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
