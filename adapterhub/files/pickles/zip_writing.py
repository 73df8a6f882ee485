"""Writes torch's zip container in the one form that torch ≥ 1.6 and every A1111 read: `archive/data.pkl`,
`archive/data/<n>` and `archive/version`, stored.

A1111 up to 1.9 refuses any other name, 1.10 still refuses what torch 2.13 adds (`modules/safe.py`, `check_zip_filenames`).
As torch's own, all data begins at multiples of 64 bytes, behind an extra field "FB" that is filled with "Z".
Source: torch `caffe2/serialize/inline_container.cc` (`getPadding`); PKWARE APPNOTE 6.3.10.
"""

from __future__ import annotations

import os
import struct
import zlib

from adapterhub.files.package import File
from adapterhub.files.pickles.emitting import emit
from adapterhub.files.streaming import Stream, allocate, whole
from adapterhub.tensors import LazyTensor, from_bytes

_ROOT, _VERSION = "archive/", b"3\n"
_END, _END64, _LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_ENTRY, _LOCAL, _CRC = struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H"), struct.Struct("<L")
_CRC_AT = 14
"""Where the CRC stands in a local header."""
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_NEEDS = 45
"""The version of the format that a reader must know, times ten: that of ZIP64."""
_COMMON = (_NEEDS, 0, 0, 0, 1 << 5 | 1)
"""What both headers of a member begin with: version, no flags, stored, at 0:00 on the first of January 1980."""
_ALIGNMENT = 64


def write_torch_zip(file: File, descriptor: int) -> None:
    """Writes the tree of `file`, or the dictionary of its tensors where it has none, to an empty file.

    UsageError for what torch's files do not hold, ValueError for a tensor that gives more or fewer bytes than it says.
    """
    pickled, storages = emit(dict(file.tensors) if file.tree is None else file.tree)
    allocate(descriptor, len(pickled) + sum(tensor.nbytes for _, tensor in storages))
    archive = _Archive(descriptor)
    archive.add("data.pkl", "data.pkl", _plain(pickled))
    for key, (name, tensor) in enumerate(storages):
        archive.add(f"data/{key}", name, tensor)
    archive.add("version", "version", _plain(_VERSION))
    archive.finish()


def _plain(content: bytes) -> LazyTensor:
    return from_bytes("U8", (len(content),), content)


class _Archive:
    """An archive that grows member by member. Sizes are known before the bytes come; CRCs are put in at the end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._stream = descriptor, Stream(descriptor)
        self._at = 0
        self._directory: list[bytes] = []
        self._crcs: dict[int, int] = {}

    def add(self, path: str, name: str, content: LazyTensor) -> None:
        """Appends a member; `name` is what an error calls it."""
        raw = (_ROOT + path).encode()
        header, crc = local_header(raw, content.nbytes, self._at), 0
        self._stream.put(header)
        for chunk in whole(name, content):
            crc = zlib.crc32(chunk, crc)
            self._stream.put(chunk)
        self._crcs[self._at] = crc
        self._directory.append(directory_entry(raw, content.nbytes, crc, self._at))
        self._at += len(header) + content.nbytes

    def finish(self) -> None:
        """Appends the directory and completes the headers."""
        directory = b"".join(self._directory)
        self._stream.put(directory + directory_end(len(self._directory), len(directory), self._at))
        self._stream.flush()
        for at, crc in self._crcs.items():
            os.pwrite(self._descriptor, _CRC.pack(crc), at + _CRC_AT)


def local_header(path: bytes, size: int, at: int) -> bytes:
    """The header, still without CRC, of a member that begins at byte `at`; its data is aligned."""
    sizes, wide = _narrow(size, size)
    rest = path + wide
    padding = -(at + _LOCAL.size + len(rest) + 4) % _ALIGNMENT
    extra = wide + struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    return _LOCAL.pack(b"PK\3\4", *_COMMON, 0, *sizes, len(path), len(extra)) + path + extra


def directory_entry(path: bytes, size: int, crc: int, at: int) -> bytes:
    """What the directory says of a member whose header lies at byte `at`."""
    (*sizes, place), wide = _narrow(size, size, at)
    lengths = (len(path), len(wide), 0)
    return _ENTRY.pack(b"PK\1\2", _NEEDS, *_COMMON, crc, *sizes, *lengths, 0, 0, 0, place) + path + wide


def directory_end(count: int, length: int, start: int) -> bytes:
    """The end of an archive with a directory of `count` entries in `length` bytes from byte `start`."""
    wide = b""
    if count >= _FULL16 or max(length, start) >= _FULL32:
        wide = _END64.pack(b"PK\6\6", _END64.size - 12, _NEEDS, _NEEDS, 0, 0, count, count, length, start)
        wide += _LOCATOR.pack(b"PK\6\7", 0, start + length, 1)
    few, (short, place) = min(count, _FULL16), (min(value, _FULL32) for value in (length, start))
    return wide + _END.pack(b"PK\5\6", 0, 0, few, few, short, place, 0)


def _narrow(*values: int) -> tuple[list[int], bytes]:
    """`values` in 32 bits each, and the ZIP64 field that holds those that need more."""
    wide = [value for value in values if value >= _FULL32]
    field = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    return [min(value, _FULL32) for value in values], field
