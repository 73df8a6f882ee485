"""One model as it lies on disk: in one safetensors file, or in shards that an index joins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapterhub.errors import MalformedFile
from adapterhub.files import foreign, safetensors
from adapterhub.files.beside import inside, read_document
from adapterhub.files.limits import Limits
from adapterhub.files.package import SAFETENSORS, File, Problem
from adapterhub.files.source import Source
from adapterhub.tensors import LazyTensor


@dataclass(frozen=True, slots=True)
class Opened:
    """A file, what was odd about it, and the sources behind its tensors by their names: itself, or its shards."""

    file: File
    problems: tuple[Problem, ...]
    sources: dict[str, Source]
    container: str = SAFETENSORS


def is_index(name: str) -> bool:
    """Whether a file of this name is read as an index of shards."""
    return name.endswith(".json")


def open_model(path: Path, limits: Limits) -> Opened:
    """The model at `path`: a safetensors file, or the shards that an index joins."""
    return open_shards(path, limits) if is_index(path.name) else open_file(path, limits)


def open_file(path: Path, limits: Limits) -> Opened:
    """The safetensors file at `path`, its header read and checked."""
    with closing_on_error([Source(path)]) as sources:
        return read_safetensors(sources[0], sniff(sources[0]), limits)


def sniff(source: Source) -> bytes:
    """The first bytes of a file, or all there are."""
    return source.read(0, min(source.size, foreign.SNIFFED))


def read_safetensors(source: Source, head: bytes, limits: Limits) -> Opened:
    """The safetensors file that begins with `head`."""
    path = source.path
    count = safetensors.header_length(head, source.size, path, limits)
    start = safetensors.PREFIX + count
    raw = head[safetensors.PREFIX : start] + source.read(len(head), max(0, start - len(head)))
    header = safetensors.parse_header(raw, source.size - start, path, limits)
    file = File(header.tensors(source.pieces, start), header.metadata)
    return Opened(file, tuple(header.problems), {path.name: source})


def open_shards(path: Path, limits: Limits) -> Opened:
    """The shards that the index at `path` names, joined in the order of their names."""
    index = read_document(path, limits)
    weight_map = _weight_map(index, path)
    parts: dict[str, Opened] = {}
    with closing_on_error([]) as sources:
        for name in sorted(set(weight_map.values())):
            shard = inside(path.parent, name, path)
            if not shard.exists():
                raise MalformedFile(path, "missing-shard", f"the shard {name!r} is not there", mend="Get it too.")
            parts[name] = open_file(shard, limits)
            sources.extend(parts[name].sources.values())
        tensors = _join({name: part.file.tensors for name, part in parts.items()}, weight_map, path)
        _require_total(index, tensors, path)
        metadata = {key: text for part in parts.values() for key, text in part.file.metadata.items()}
        problems = tuple(problem for part in parts.values() for problem in part.problems)
        return Opened(File(tensors, metadata), problems, dict(zip(parts, sources, strict=True)))


@contextmanager
def closing_on_error(sources: list[Source]) -> Iterator[list[Source]]:
    """Closes `sources`, and what was added to them, if something goes wrong inside."""
    try:
        yield sources
    except BaseException:
        for source in sources:
            source.close()
        raise


def _weight_map(index: Any, path: Path) -> dict[str, str]:
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise MalformedFile(
            path, "not-an-index", "a JSON file, but no index of shards (weight_map: name → file)",
            mend="Give the safetensors file itself, or its folder.",
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
    total = sum(tensor.nbytes for tensor in tensors.values())
    if stated is not None and stated != total:
        raise MalformedFile(
            path, "total-size", f"the index counts {stated!r} bytes of tensors, the shards hold {total}",
            mend="Get the index and all shards again.",
        )  # fmt: skip
