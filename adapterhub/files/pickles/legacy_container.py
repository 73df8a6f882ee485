"""Torch's container before 1.6: five pickles (magic number, protocol, system, object, storage keys), then the storages.

Each storage is the number of its elements in 8 bytes, and its bytes; both little-endian on every machine.
Source: torch `serialization.py` (`_legacy_save`, `_legacy_load`), `csrc/serialization.cpp` (`THPStorage_writeFileRaw`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from adapterhub.files.limits import Limits
from adapterhub.files.package import File, Problem
from adapterhub.files.pickles.machine import interpret
from adapterhub.files.pickles.meanings import TorchMeanings
from adapterhub.files.pickles.state import Cut, Refusal, shown
from adapterhub.files.pickles.tensors import Storage
from adapterhub.files.pickles.tree import file_of
from adapterhub.files.source import Source

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_COUNT = 8
_FIRST = 1 << 20
"""Bytes that are read at first, in the hope that all pickles lie in them; four times as many then, and so on."""


def read_file(source: Source, limits: Limits) -> tuple[File, list[Problem]]:
    """The file, its tensors lazy over the storages behind the pickles. Refusal where it breaks a rule."""
    meanings, root, keys, end = _pickles(source, limits)
    _find_storages(source, meanings.storages, keys, end)
    file, problems = file_of(root, meanings.left_out, limits)
    source.ensure_unchanged()
    return file, problems


def _pickles(source: Source, limits: Limits) -> tuple[TorchMeanings, Any, Any, int]:
    """What the object and the storage keys are, and where the pickles end, from as much of the file as that takes."""
    size = _FIRST
    while True:
        meanings = TorchMeanings(limits, _unbound, legacy=True)
        data = source.read(0, min(size, source.size, limits.pickle))
        try:
            return meanings, *_interpreted(data, meanings, limits)
        except Cut:
            if len(data) == source.size:
                raise
            if len(data) == limits.pickle:
                raise Refusal("pickle-too-large", f"the pickles have more than {limits.pickle} bytes") from None
            size *= 4


def _unbound(storage: Storage) -> None:
    """Where the storages lie is known once all pickles are read."""


def _interpreted(data: bytes, meanings: TorchMeanings, limits: Limits) -> tuple[Any, Any, int]:
    nothing = TorchMeanings(limits, _unbound, legacy=True)
    magic, at = interpret(data, 0, nothing, limits)
    protocol, at = interpret(data, at, nothing, limits)
    system, at = interpret(data, at, nothing, limits)
    if magic != _MAGIC or protocol != _PROTOCOL:
        raise Refusal("legacy-head", "the file does not begin with torch's magic number and protocol 1001")
    if not isinstance(system, dict) or system.get("protocol_version") != _PROTOCOL:
        raise Refusal("legacy-head", "the file's note of the system that wrote it is not like torch's")
    if type(system.get("little_endian")) is not bool or not isinstance(system.get("type_sizes"), dict):
        raise Refusal("legacy-head", "the file's note of the system that wrote it is not like torch's")
    root, at = interpret(data, at, meanings, limits)
    keys, at = interpret(data, at, nothing, limits)
    if nothing.storages:
        raise Refusal("legacy-head", "a storage is named where none belongs")
    return root, keys, at


def _find_storages(source: Source, storages: dict[str, Storage], keys: Any, at: int) -> None:
    """Ties every storage to its place in the file, which ends with the last of them."""
    if type(keys) is not list or not all(type(key) is str for key in keys) or len({*keys}) != len(keys):
        raise Refusal("legacy-keys", "the list of storages is no list of different texts")
    if {*keys} != storages.keys():
        raise Refusal("legacy-keys", "the list of storages names others than the tensors do")
    for key in keys:
        storage = storages[key]
        start = at + _COUNT
        at = start + storage.nbytes
        if at > source.size:
            raise Refusal("storage-size", f"the storage {shown(key)} ends {at - source.size} bytes behind the file")
        count = int.from_bytes(source.read(start - _COUNT, _COUNT), "little", signed=True)
        if count != storage.count:
            raise Refusal(
                "storage-size", f"the storage {shown(key)} has {count} elements, where {storage.count} are stated"
            )
        storage.read = partial(_pieces, source, start)
    if at != source.size:
        raise Refusal("legacy-trailing", f"{source.size - at} bytes follow the last storage")


def _pieces(source: Source, begin: int, start: int, length: int) -> Any:
    return source.pieces(begin + start, length)
