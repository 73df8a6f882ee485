"""`verify`: files are read again and compared with the sha256 that was recorded, as restic's `check --read-data` does.

Size, time and inode say what happened to a file that differs: a program that writes leaves another time, a bad disk does not.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from adapterhub import files
from adapterhub.documents import Damage, Verification
from adapterhub.errors import AdapterhubError, UsageError
from adapterhub.files.progress import tell
from adapterhub.registry import hashing
from adapterhub.registry.database import reading, restored
from adapterhub.registry.reference import resolve
from adapterhub.registry.workers import carried_out, few_of

_AT_ONCE = 200
"""Contents that are asked for at a time, so that no question stays open while files are read."""
_HASHED = "FROM files JOIN hashes ON file_id = files.id AND hashes.name = 'sha256' WHERE role = 'content'"

Content = tuple[int, int]
"""Inode and device: what hard links have in common."""


class Recorded(NamedTuple):
    """A file as the registry knows it."""

    record: int
    path: Path
    inode: int
    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of files that have one content."""

    checked: int
    recorded: int
    """Bytes that were expected."""
    bytes: int
    damages: tuple[Damage, ...]


def verify(
    *refs: str, sample: int | str | None = None, seed: int | None = None, jobs: int | None = None, db: Path | str | None = None
) -> Verification:  # fmt: skip
    """Reads the files of `refs`, or of all records, in `jobs` processes, and compares their sha256 with the recorded one.

    `sample` takes that many files, or such a share ("5%"), by chance: the same for the same `seed`. Nothing is changed.
    """
    started = time.perf_counter()
    with reading(db) as connection:
        records = {resolve(connection, ref) for ref in refs}
        contents = _chosen(connection, records, sample, seed)
        groups: Iterable[list[Recorded]] = filter(None, (_recorded(connection, one, records) for one in contents))
        if records or sample is not None:
            groups = list(groups)
            expected = sum(group[0].size for group in groups)
        else:
            expected = _size(connection)
        tell(expected=expected)
        checked = read = 0
        damages: list[Damage] = []
        for results in carried_out(looked_at, groups, jobs, size=1, few=few_of(expected)):
            for one in results:
                tell(one.recorded)
                checked, read = checked + one.checked, read + one.bytes
                damages += one.damages
        return Verification(checked=checked, bytes=read, damages=damages, waiting=hashing.waiting(connection),
                            seconds=round(time.perf_counter() - started, 3))  # fmt: skip


def _chosen(
    connection: sqlite3.Connection, records: set[int], sample: int | str | None, seed: int | None
) -> Iterable[Content]:
    """The contents to be read, in the order of their inodes, which is near that on the disk."""
    found = _of(connection, records) if records else _all(connection)
    if sample is None:
        return found
    total = len(_of(connection, records)) if records else _count(connection)
    salt = os.urandom(8) if seed is None else str(seed).encode()[:64]

    def shuffled(content: Content) -> bytes:  # no order of theirs has a say in it
        return hashlib.blake2b(repr(content).encode(), digest_size=8, key=salt).digest()

    return sorted(nsmallest(_many(sample, total), found, key=shuffled))


def _of(connection: sqlite3.Connection, records: set[int]) -> list[Content]:
    rows = chain.from_iterable(
        connection.execute(f"SELECT DISTINCT inode, device {_HASHED} AND record_id = ?", (one,)) for one in records
    )
    return sorted({(row[0], row[1]) for row in rows})


def _all(connection: sqlite3.Connection) -> Iterator[Content]:
    last = (-(1 << 63), -(1 << 63))
    while rows := connection.execute(
        f"SELECT DISTINCT inode, device {_HASHED} AND (inode, device) > (?, ?) ORDER BY inode, device LIMIT {_AT_ONCE}", last
    ).fetchall():  # fmt: skip
        yield from ((row[0], row[1]) for row in rows)
        last = (rows[-1][0], rows[-1][1])


def _count(connection: sqlite3.Connection) -> int:
    return int(connection.execute(f"SELECT count(*) FROM (SELECT DISTINCT inode, device {_HASHED})").fetchone()[0])


def _many(sample: int | str, total: int) -> int:
    """`5%` of a total, at least one, or as many as are given."""
    text = str(sample).strip()
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else None
        many = int(text) if share is None else max(1, round(share * total))
    except (ValueError, OverflowError):
        many, share = 0, None
    if many < 1 or (share is not None and not 0 < share <= 1):
        raise UsageError(f"{text!r} is no sample", mend="Give a number of files as 100, or a share as 5%.")
    return many


def _size(connection: sqlite3.Connection) -> int:
    return int(connection.execute(f"SELECT total(size) FROM (SELECT DISTINCT inode, device, size {_HASHED})").fetchone()[0])  # fmt: skip


def _recorded(connection: sqlite3.Connection, content: Content, records: set[int]) -> list[Recorded]:
    rows = connection.execute(
        f"SELECT record_id, path, inode, size, mtime_ns, value {_HASHED} AND inode = ? AND device = ? ORDER BY files.id", content
    )  # fmt: skip
    return [Recorded(row[0], restored(row[1]), *row[2:]) for row in rows if not records or row[0] in records]


def looked_at(groups: Sequence[Sequence[Recorded]]) -> list[Looked]:
    """What a process does."""
    return [_looked(group) for group in groups]


def _looked(group: Sequence[Recorded]) -> Looked:
    """Reads what several names share once, if they still share it."""
    known: dict[tuple[int, int], str] = {}
    damages, read = [], 0
    for file in group:
        try:
            found = _stat(file.path)
            if (key := (found.st_dev, found.st_ino)) not in known:
                known[key] = _digest(file.path, found)
                read += found.st_size
            damage = _compared(file, found, known[key])
        except (FileNotFoundError, NotADirectoryError):
            damage = _damage(file, "missing", "it is gone")
        except (AdapterhubError, OSError) as error:
            damage = _damage(file, "unreadable", getattr(error, "message", None) or str(error))
        damages += [damage] if damage else []
    return Looked(len(group), group[0].size, read, tuple(damages))


def _stat(path: Path) -> os.stat_result:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{path} is no regular file any more")
    return found


def _digest(path: Path, before: os.stat_result) -> str:
    digits = files.sha256(path)
    after = path.stat()
    if (before.st_size, before.st_mtime_ns, before.st_ino) != (after.st_size, after.st_mtime_ns, after.st_ino):
        raise OSError(f"{path} changed while it was read")
    return digits


def _compared(file: Recorded, found: os.stat_result, digits: str) -> Damage | None:
    if digits == file.sha256:
        return None
    if (found.st_size, found.st_mtime_ns) == (file.size, file.mtime_ns):
        return _damage(file, "rotten", "other bytes, but the same size and time", digits)
    if found.st_size < file.size:
        return _damage(file, "truncated", f"{found.st_size} bytes of {file.size}", digits)
    if found.st_ino != file.inode & (1 << 64) - 1:
        return _damage(file, "replaced", "another file has its name", digits)
    return _damage(file, "changed", "it was written to since", digits)


def _damage(file: Recorded, what: str, message: str, found: str | None = None) -> Damage:
    return Damage.model_validate({"record": file.record, "path": file.path, "what": what, "message": message,
                                  "sha256": file.sha256, "found": found})  # fmt: skip
