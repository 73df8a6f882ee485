"""A strict reader of zip archives: every byte belongs to one member, and is described in the same way wherever it is.

Archives that two readers could understand differently are refused: what one program checks, another would not run.
Source: PKWARE APPNOTE 6.3.10; torch `caffe2/serialize/inline_container.cc` (what torch writes, through miniz).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from adapterhub.errors import MalformedFile
from adapterhub.files.limits import ZIP_FREE, ZIP_RATIO, Limits
from adapterhub.files.pickles.state import shown
from adapterhub.files.source import Source

STORED, DEFLATED = 0, 8
_END, _END64, _LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_ENTRY, _LOCAL = struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H")
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_DESCRIPTOR, _FLAGS = 0x0008, 0x080E
"""The sizes follow the data; all flags that are read: that one, UTF-8 names, and how hard deflate tried."""
_ENCRYPTED = 0x2041
_ZIP64, _RENAMED = 0x0001, 0x7075
_LINK, _KIND = 0xA000, 0xF000
_DAMAGED = "The file is damaged, or made to deceive: get it again from where it comes from."


class Member(NamedTuple):
    """One file in an archive; `start` is where its stored bytes begin."""

    name: str
    method: int
    crc: int
    packed: int
    size: int
    start: int


class _Row(NamedTuple):
    """A member as the directory describes it; `offset` is where its local header begins."""

    raw: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int
    wide: bytes
    """Its ZIP64 field; empty where it has none."""


def read_directory(source: Source, limits: Limits) -> dict[str, Member]:
    """All members by name, in the order of their bytes. MalformedFile for what torch would not have written."""
    return _Archive(source, limits).members()


class _Archive:
    def __init__(self, source: Source, limits: Limits) -> None:
        self.source, self.limits = source, limits

    def members(self) -> dict[str, Member]:
        count, start, end = self._end()
        rows = sorted(self._rows(self.source.read(start, end - start), count), key=lambda row: row.offset)
        found: dict[str, Member] = {}
        at = 0
        for row, following in zip(rows, [*(row.offset for row in rows[1:]), start][: len(rows)], strict=True):
            if row.offset != at:
                self.refuse("zip-gap", f"bytes between members, or shared by two, at byte {min(at, row.offset)}")
            member = self._member(row, following)
            if member.name in found:
                self.refuse("zip-duplicate", f"the name {shown(member.name)} stands twice in the archive")
            found[member.name] = member
            at = following
        if at != start:
            self.refuse("zip-gap", "bytes before the directory that belong to no member")
        return found

    def refuse(self, rule: str, message: str) -> NoReturn:
        raise MalformedFile(self.source.path, rule, message, mend=_DAMAGED)

    def _end(self) -> tuple[int, int, int]:
        """How many entries the directory has, where it begins and ends."""
        size = self.source.size
        if size < _END.size:
            self.refuse("zip-end", "the archive is cut")
        place = size - _END.size
        mark, disk, first, here, count, length, start, comment = _END.unpack(self.source.read(place, _END.size))
        if mark != b"PK\5\6" or comment:
            self.refuse("zip-end", "no zip archive ends where the file ends: it is cut, or something follows")
        if disk or first or here != count:
            self.refuse("zip-end", "an archive in several parts")
        end = place
        if place >= _LOCATOR.size and self.source.read(place - _LOCATOR.size, 4) == b"PK\6\7":
            count, length, start, end = self._end64(place - _LOCATOR.size, (count, length, start))
        elif count == _FULL16 or _FULL32 in (length, start):
            self.refuse("zip64", "the end of the archive points to a ZIP64 record that is not there")
        if start + length != end:
            self.refuse("zip-end", "the directory does not lie where the end of the archive says")
        if count > self.limits.records or count * _ENTRY.size > length:
            self.refuse(
                "zip-records", f"{count} members, above the limit of {self.limits.records} or than there can be"
            )
        if length > self.limits.pickle:
            self.refuse("zip-records", f"a directory of {length} bytes, above the limit of {self.limits.pickle}")
        return count, start, end

    def _end64(self, at: int, short: tuple[int, int, int]) -> tuple[int, int, int, int]:
        """Count, length, start and end of the directory as the ZIP64 records say, which must agree with the `short` one."""
        _, disk, place, disks = _LOCATOR.unpack(self.source.read(at, _LOCATOR.size))
        if place + _END64.size != at or disk or disks > 1:
            self.refuse("zip64", "the ZIP64 end record does not lie where its locator says")
        mark, rest, _, _, here, first, own, count, length, start = _END64.unpack(self.source.read(place, _END64.size))
        if mark != b"PK\6\6" or rest != _END64.size - 12 or here or first or own != count:
            self.refuse("zip64", "the ZIP64 end record is not as it must be")
        for told, true, full in zip(short, (count, length, start), (_FULL16, _FULL32, _FULL32), strict=True):
            if told not in (true, full):
                self.refuse("zip64", "the two records of the end of the archive contradict each other")
        return count, length, start, place

    def _rows(self, raw: bytes, count: int) -> Iterator[_Row]:
        at = 0
        for _ in range(count):
            if at + _ENTRY.size > len(raw):
                self.refuse("zip-directory", "the directory is shorter than its entries")
            (mark, made, _, flags, method, _, _, crc, packed, size, names, extras, comment, disk, _, mode, offset) = (
                _ENTRY.unpack_from(raw, at)
            )
            start = at + _ENTRY.size
            at = start + names + extras
            if mark != b"PK\1\2" or at > len(raw) or comment or disk:
                self.refuse("zip-directory", "an entry of the directory is not as it must be")
            name = raw[start : start + names]
            self._check(name, flags, method, mode >> 16 if made >> 8 == 3 else 0)
            wide = self._fields(name, raw[start + names : at]).get(_ZIP64, b"")
            size, packed, offset = self._widened(name, wide, [size, packed, offset])
            yield _Row(name, flags, method, crc, packed, size, offset, wide)
        if at != len(raw):
            self.refuse("zip-directory", "bytes in the directory that belong to no entry")

    def _check(self, name: bytes, flags: int, method: int, mode: int) -> None:
        if flags & _ENCRYPTED:
            self.refuse("zip-encrypted", f"the member {shown(name)} is encrypted")
        if flags & ~_FLAGS:
            self.refuse("zip-flags", f"the member {shown(name)} has flags {flags:#06x} that no file of tensors needs")
        if method not in (STORED, DEFLATED):
            self.refuse("zip-method", f"the member {shown(name)} is compressed by method {method}")
        if mode & _KIND == _LINK:
            self.refuse("zip-link", f"the member {shown(name)} is a symbolic link")

    def _widened(self, name: bytes, wide: bytes, values: list[int]) -> list[int]:
        """`values` with those replaced that a ZIP64 field holds: exactly those that are full, in their order."""
        full = [place for place, value in enumerate(values) if value == _FULL32]
        if len(wide) != 8 * len(full):
            self.refuse("zip64", f"the ZIP64 field of {shown(name)} does not hold what it must")
        for place, value in zip(full, struct.unpack(f"<{len(full)}Q", wide), strict=True):
            values[place] = value
        return values

    def _fields(self, name: bytes, extra: bytes) -> dict[int, bytes]:
        fields: dict[int, bytes] = {}
        at = 0
        while at < len(extra):
            kind, length = struct.unpack_from("<2H", extra, at) if at + 4 <= len(extra) else (_RENAMED, 0)
            start, at = at + 4, at + 4 + length
            if at > len(extra) or kind in fields or kind == _RENAMED:
                self.refuse("zip-extra", f"the extra fields of {shown(name)} are cut, repeated, or give another name")
            fields[kind] = extra[start:at]
        return fields

    def _member(self, row: _Row, following: int) -> Member:
        """The member, once its local header and what follows its data say the same."""
        head = self.source.read(row.offset, min(_LOCAL.size + len(row.raw), max(0, following - row.offset)))
        if len(head) < _LOCAL.size + len(row.raw):
            self.refuse("zip-local", f"the local header of {shown(row.raw)} is cut")
        mark, _, flags, method, _, _, crc, packed, size, names, extras = _LOCAL.unpack_from(head)
        start = row.offset + len(head) + extras
        if (mark, flags, method, names, head[_LOCAL.size :]) != (
            b"PK\3\4",
            row.flags,
            row.method,
            len(row.raw),
            row.raw,
        ):
            self.refuse("zip-local", f"the local header of {shown(row.raw)} says something else than the directory")
        end = start + row.packed
        if end > following:
            self.refuse("zip-gap", f"the member {shown(row.raw)} reaches into what follows")
        wide = self._fields(row.raw, self.source.read(row.offset + len(head), extras)).get(_ZIP64, b"")
        if flags & _DESCRIPTOR and (crc, packed, size) == (0, 0, 0):
            if wide and not _unfinished(wide, row.wide):
                self.refuse("zip64", f"the ZIP64 field of {shown(row.raw)} differs from that in the directory")
        else:
            size, packed = self._widened(row.raw, wide, [size, packed])
            if (crc, packed, size) != (row.crc, row.packed, row.size):
                self.refuse("zip-local", f"the local header of {shown(row.raw)} has other sizes than the directory")
        self._check_descriptor(row, end, following)
        self._check_size(row)
        return Member(self._name(row), row.method, row.crc, row.packed, row.size, start)

    def _check_descriptor(self, row: _Row, end: int, following: int) -> None:
        """What lies between the data and the next header: nothing, or sizes and CRC once more, in 32 or 64 bits."""
        rest = self.source.read(end, min(following - end, 25))
        numbers = (row.crc, row.packed, row.size)
        short = struct.pack("<4s3L", b"PK\7\x08", *(number & _FULL32 for number in numbers))
        long = struct.pack("<4sL2Q", b"PK\7\x08", *numbers)
        if rest not in ((short, long) if row.flags & _DESCRIPTOR else (b"",)):
            self.refuse("zip-gap", f"what follows the data of {shown(row.raw)} is not what must follow")

    def _check_size(self, row: _Row) -> None:
        if row.method == STORED and row.packed != row.size:
            self.refuse("zip-size", f"the member {shown(row.raw)} is stored, and yet has two sizes")
        if row.size > ZIP_FREE and row.size > ZIP_RATIO * row.packed:
            self.refuse("zip-ratio", f"the member {shown(row.raw)} grows from {row.packed} to {row.size} bytes")

    def _name(self, row: _Row) -> str:
        try:
            name = row.raw.decode("utf-8" if row.flags & 0x0800 else "ascii")
        except UnicodeDecodeError:
            self.refuse("zip-name", f"the name {shown(row.raw)} is not UTF-8, or not marked as such")
        parts = name.split("/")
        if not name or {"", ".", ".."} & {*parts} or any(sign in name for sign in "\\:\0"):
            self.refuse("zip-name", f"the name {shown(name)} is empty, or leads somewhere")
        return name


def _unfinished(wide: bytes, true: bytes) -> bool:
    """Whether a ZIP64 field that was written before its member says what the `true` one does, or 0 as far as it could
    not know: so miniz writes it.
    """
    if len(wide) != len(true) or len(wide) % 8:
        return False
    return all(wide[at : at + 8] in (bytes(8), true[at : at + 8]) for at in range(0, len(true), 8))
