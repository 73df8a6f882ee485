"""Torch's container since 1.6: a zip of `<root>/data.pkl`, the storages `<root>/data/<key>`, and a few small records.

Source: torch `serialization.py` (`_save`, `_load`), `caffe2/serialize/inline_container.cc`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import partial

from adapterhub.files.limits import Limits
from adapterhub.files.package import File, Problem
from adapterhub.files.pickles import zip_members
from adapterhub.files.pickles.machine import interpret
from adapterhub.files.pickles.meanings import TorchMeanings
from adapterhub.files.pickles.state import Refusal, shown
from adapterhub.files.pickles.tensors import Storage
from adapterhub.files.pickles.tree import file_of
from adapterhub.files.pickles.zip_directory import Member, read_directory
from adapterhub.files.source import Source

_PICKLE, _DATA, _BYTE_ORDER, _VERSION = "data.pkl", "data/", "byteorder", "version"
_RECORDS = {_PICKLE, _BYTE_ORDER, _VERSION, ".format_version", ".storage_alignment", ".data/serialization_id"}
_SMALL = 1024
"""Bytes of a record that is no pickle and no storage."""
_STORAGE = re.compile(r"data/\d{1,20}", re.ASCII)
_VERSIONS = frozenset(map(str, range(1, 11)))
"""What torch reads (`kMinSupportedFileFormatVersion` and its like)."""
_SCRIPT = "constants.pkl"


def read_file(source: Source, limits: Limits) -> tuple[File, list[Problem]]:
    """The file, its tensors lazy over the members of the archive. Refusal or MalformedFile where it breaks a rule."""
    archive = _Archive(source, _records(read_directory(source, limits)))
    meanings = TorchMeanings(limits, archive.find)
    data = archive.pickle(limits)
    root, end = interpret(data, 0, meanings, limits)
    if end != len(data):
        raise Refusal("pickle-trailing", f"{len(data) - end} bytes follow the end of data.pkl")
    file, problems = file_of(root, meanings.left_out, limits)
    archive.require_all_used(meanings.storages)
    source.ensure_unchanged()
    return file, problems


def _records(members: dict[str, Member]) -> dict[str, Member]:
    """The members by their names below the root, which is the folder that data.pkl lies in."""
    roots = [name.removesuffix(_PICKLE) for name in members if name.rpartition("/")[2] == _PICKLE]
    if not roots:
        raise Refusal("zip", "a zip archive, not a model: it has no data.pkl")
    root = roots[0]
    if len(roots) > 1 or root.count("/") != 1:
        raise Refusal(
            "zip-pickles", f"{len(roots)} members are called data.pkl, or one that does not lie in the one folder"
        )
    if strays := [name for name in members if not name.startswith(root)]:
        raise Refusal("zip-stray", f"the member {shown(strays[0])} lies beside the folder {shown(root)}")
    return {name.removeprefix(root): member for name, member in members.items()}


class _Archive:
    """The records of one archive by their names."""

    def __init__(self, source: Source, records: dict[str, Member]) -> None:
        self._source, self._records = source, records
        if _SCRIPT in records:
            raise Refusal("torchscript", "a TorchScript program, not a file of tensors")
        if strays := [name for name in records if name not in _RECORDS and not _STORAGE.fullmatch(name)]:
            raise Refusal("zip-stray", f"the member {shown(strays[0])}, which torch.save does not write")
        if self._small(_VERSION) not in _VERSIONS:
            raise Refusal("zip-version", "the archive states no version that torch reads")
        order = self._small(_BYTE_ORDER) if _BYTE_ORDER in records else "little"
        if order not in ("little", "big"):
            raise Refusal("byte-order", f"the byte order is {shown(order)}, neither little nor big")
        self._big_endian = order == "big"

    def pickle(self, limits: Limits) -> bytes:
        """`data.pkl`."""
        member = self._records[_PICKLE]
        if member.size > limits.pickle:
            raise Refusal("pickle-too-large", f"data.pkl has {member.size} bytes, above the limit of {limits.pickle}")
        return zip_members.content(self._source, member)

    def find(self, storage: Storage) -> None:
        """Ties `storage` to its member, which must be as large as it."""
        member = self._records.get(_DATA + storage.key)
        if member is None or not _STORAGE.fullmatch(_DATA + storage.key):
            raise Refusal("storage-missing", f"the storage {shown(storage.key)} is not in the archive")
        if member.size != storage.nbytes:
            message = f"the storage {shown(storage.key)} has {member.size} bytes, where {storage.nbytes} are stated"
            raise Refusal("storage-size", message)
        storage.big_endian = self._big_endian
        storage.read = partial(zip_members.pieces, self._source, member)

    def require_all_used(self, keys: Collection[str]) -> None:
        """Refusal for a storage that no tensor is in: nothing writes such a file."""
        if strays := [name for name in self._records if _STORAGE.fullmatch(name) and name[len(_DATA) :] not in keys]:
            raise Refusal("zip-stray", f"no tensor lies in the member {shown(strays[0])}")

    def _small(self, name: str) -> str:
        member = self._records.get(name)
        if member is None or member.size > _SMALL:
            raise Refusal("zip-record", f"the record {name} is missing, or has more than {_SMALL} bytes")
        return zip_members.content(self._source, member).decode("latin-1").removesuffix("\n")
