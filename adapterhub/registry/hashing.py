"""The second part of indexing: files are read whole, for the digests that people quote, the fingerprint and the sketch.

The smallest come first, so that most is known soon. A record is done when its row says so; whatever is killed goes on there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import adapterhub.layouts as layouts
from adapterhub import files
from adapterhub.adapter import Kind
from adapterhub.documents import Trouble
from adapterhub.errors import AdapterhubError
from adapterhub.files.progress import tell
from adapterhub.fingerprint import Weights, fingerprint
from adapterhub.operations.source import decoded
from adapterhub.registry.database import restored, transaction
from adapterhub.registry.workers import carried_out
from adapterhub.sketch import sketch

_AT_ONCE = 200
"""Records that are asked for at a time."""
_WORTH_PROCESSES = 64 << 20
"""Bytes below which one process is quicker than several are started."""


@dataclass(slots=True)
class Hashing:
    """What was done."""

    records: int = 0
    bytes: int = 0
    troubles: list[Trouble] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Task:
    """A record, and its files by id: path, size, time and inode as the registry knows them."""

    record: int
    path: Path
    kind: str
    refused: bool
    files: Mapping[int, tuple[Path, int, int, int]]

    @property
    def size(self) -> int:
        return sum(size for _, size, _, _ in self.files.values())


@dataclass(frozen=True, slots=True)
class Digested:
    """What reading a record whole gave; `failed` says why it gave nothing."""

    task: Task
    hashes: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    fingerprint: str | None = None
    sketch: bytes | None = None
    failed: str | None = None


def hash_all(connection: sqlite3.Connection, jobs: int | None) -> Hashing:
    """Reads every record whole that was not since its files changed."""
    done = Hashing()
    tell(expected=_expected(connection))
    for results in carried_out(digested, _tasks(connection), jobs, size=1, few=_few(connection)):
        with transaction(connection):
            for found in results:
                _put(connection, found, done)
                tell(found.task.size)
    with transaction(connection):
        done.records += _share(connection)
    return done


def waiting(connection: sqlite3.Connection) -> int:
    """How many records are still to be read whole."""
    return int(connection.execute("SELECT count(*) FROM records WHERE hashed = 0 AND missing IS NULL").fetchone()[0])


def _expected(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT sum(size) FROM records WHERE hashed = 0 AND missing IS NULL").fetchone()
    return int(row[0] or 0)


def _few(connection: sqlite3.Connection) -> int:
    return 2 if _expected(connection) >= _WORTH_PROCESSES else 1 << 30


def _tasks(connection: sqlite3.Connection) -> Iterator[Task]:
    """The smallest first. What cannot be read is asked for once."""
    size, last = -1, -1
    while rows := connection.execute(
        "SELECT id, path, kind, refused, size FROM records WHERE hashed = 0 AND missing IS NULL AND (size, id) > (?, ?) "
        f"AND NOT EXISTS ({_TWIN}) ORDER BY size, id LIMIT {_AT_ONCE}", (size, last),
    ).fetchall():  # fmt: skip
        for row in rows:
            files = connection.execute(
                "SELECT id, path, size, mtime_ns, inode FROM files WHERE record_id = ? AND role = 'content'",
                (row["id"],),
            )
            yield Task(row["id"], restored(row["path"]), row["kind"], row["refused"] is not None,
                       {one["id"]: (restored(one["path"]), *one[2:]) for one in files})  # fmt: skip
        size, last = rows[-1]["size"], rows[-1]["id"]


_TWIN = """SELECT one.record_id FROM files AS mine JOIN files AS one
    ON one.inode = mine.inode AND one.device = mine.device AND one.size = mine.size AND one.mtime_ns = mine.mtime_ns
    WHERE mine.record_id = records.id AND mine.role = 'content' AND one.role = 'content' AND one.record_id < mine.record_id"""
"""The records that have a hard link to a file of a record, and came first."""


def _share(connection: sqlite3.Connection) -> int:
    """Gives hard links what was found of the file under its other name."""
    shared = 0
    twins = connection.execute(
        f"SELECT id, ({_TWIN} LIMIT 1) AS twin FROM records WHERE hashed = 0 AND EXISTS ({_TWIN})"
    )
    for record, twin in twins.fetchall():
        shared += connection.execute(
            "UPDATE records SET (hashed, fingerprint, sketch) = (SELECT hashed, fingerprint, sketch FROM records WHERE id = ?) "
            "WHERE id = ? AND (SELECT hashed FROM records WHERE id = ?)", (twin, record, twin),
        ).rowcount  # fmt: skip
        connection.execute(
            "INSERT OR REPLACE INTO hashes (file_id, name, value) SELECT mine.id, hashes.name, value FROM hashes "
            "JOIN files AS one ON one.id = file_id AND one.record_id = ? JOIN files AS mine ON mine.record_id = ? "
            "AND mine.inode = one.inode AND mine.device = one.device", (twin, record),
        )  # fmt: skip
    return shared


def digested(tasks: Sequence[Task]) -> list[Digested]:
    """What a process does."""
    return [_digested(task) for task in tasks]


def _digested(task: Task) -> Digested:
    try:
        hashes, fingerprint, sketch = _read(task)
        if not all(_is_as_known(*file) for file in task.files.values()):
            return Digested(task, failed="it changed while it was read")
    except (AdapterhubError, OSError) as error:
        return Digested(task, failed=getattr(error, "message", None) or str(error))
    return Digested(task, hashes, fingerprint, sketch)


def _read(task: Task) -> tuple[dict[int, dict[str, str]], str | None, bytes | None]:
    if task.refused or task.kind == "unknown":
        return _hashes(task), None, None
    with files.read(task.path) as package:
        reading, _ = decoded(package, layouts.identify(package))
        if reading is None:
            return _hashes(task), None, None
        seen = Weights(reading.adapter) if reading.kind is Kind.CHECKPOINT and len(task.files) == 1 else None
        hashes = _hashes(task, () if seen is None else (seen,))
        return hashes, fingerprint(reading.adapter, seen), sketch(reading.adapter)


def _hashes(task: Task, also: Collection[Weights] = ()) -> dict[int, dict[str, str]]:
    found = {number: files.every_digest(path, also=also) for number, (path, *_) in task.files.items()}
    return {number: {name: digits for name, digits in one.items() if digits} for number, one in found.items()}


def _is_as_known(path: Path, size: int, mtime_ns: int, inode: int) -> bool:
    stat = path.stat()
    return (stat.st_size, stat.st_mtime_ns, stat.st_ino & (1 << 64) - 1) == (size, mtime_ns, inode & (1 << 64) - 1)


def _put(connection: sqlite3.Connection, found: Digested, done: Hashing) -> None:
    if found.failed is not None:
        done.troubles.append(Trouble(path=str(found.task.path), message=found.failed))
        return
    known = {row[0] for row in connection.execute("SELECT id FROM files WHERE record_id = ?", (found.task.record,))}
    if not known >= found.hashes.keys():  # another process found that it has changed
        return
    connection.executemany(
        "INSERT OR REPLACE INTO hashes (file_id, name, value) VALUES (?, ?, ?)",
        [(file, name, digits) for file, digests in found.hashes.items() for name, digits in digests.items()],
    )
    connection.execute("UPDATE records SET hashed = 1, fingerprint = ?, sketch = ? WHERE id = ?",
                       (found.fingerprint, found.sketch, found.task.record))  # fmt: skip
    done.records += 1
    done.bytes += found.task.size
