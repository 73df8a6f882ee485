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
from adapterhub.operations.digests import digest_of, listed
from adapterhub.operations.source import decoded
from adapterhub.registry import lineage, twins
from adapterhub.registry.database import restored, transaction
from adapterhub.registry.workers import carried_out, few_of
from adapterhub.sketch import sketch

_AT_ONCE = 200
"""Records that are asked for at a time."""


_OF_NOTHING = "e3b0c442"
"""How the hash begins of files that end before what it covers: those of many."""
_UNREAD = "hashed = 0 AND missing IS NULL"
_SEEN = " AND id IN (SELECT id FROM seen)"


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
    sha256: str | None = None
    fingerprint: str | None = None
    sketch: bytes | None = None
    failed: str | None = None


def hash_all(connection: sqlite3.Connection, jobs: int | None, *, seen: bool = False, most: int = 1 << 62) -> Hashing:
    """Reads every record whole that was not since its files changed, and has `most` bytes at most; with `seen` those that were just met."""
    done = Hashing()
    which = f"{_UNREAD} AND size <= {most:d}{_SEEN if seen else ''}"
    expected = int(connection.execute(f"SELECT total(size) FROM records WHERE {which}").fetchone()[0])
    tell(expected=expected)
    for results in carried_out(digested, _tasks(connection, which), jobs, size=1, few=few_of(expected)):
        with transaction(connection):
            for found in results:
                _put(connection, found, done)
                tell(found.task.size)
    with transaction(connection):
        done.records += _share(connection)
    return done


def waiting(connection: sqlite3.Connection) -> int:
    """How many records are still to be read whole."""
    return int(connection.execute(f"SELECT count(*) FROM records WHERE {_UNREAD}").fetchone()[0])


def _tasks(connection: sqlite3.Connection, which: str) -> Iterator[Task]:
    """The smallest first. What cannot be read is asked for once."""
    size, last = -1, -1
    while rows := connection.execute(
        f"SELECT id, path, kind, refused, size FROM records WHERE {which} AND (size, id) > (?, ?) AND NOT EXISTS ({_TWIN}) "
        f"ORDER BY size, id LIMIT {_AT_ONCE}", (size, last),
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
    WHERE mine.record_id = records.id AND mine.role = 'content' AND one.role = 'content' AND one.record_id < mine.record_id
    AND (SELECT count(*) FROM files WHERE record_id = mine.record_id AND role = 'content') = 1
    AND (SELECT count(*) FROM files WHERE record_id = one.record_id AND role = 'content') = 1"""
"""The records of one file that is a hard link to a record's one file, and came first. Folders may have some files in common, as
revisions in a cache do, and each is read.
"""


def _share(connection: sqlite3.Connection) -> int:
    """Gives hard links what was found of the file under its other name."""
    pairs = connection.execute(
        f"SELECT id, ({_TWIN} LIMIT 1) AS twin FROM records WHERE hashed = 0 AND EXISTS ({_TWIN})"
    ).fetchall()
    return sum(twins.share(connection, twin, record) for record, twin in pairs)


def digested(tasks: Sequence[Task]) -> list[Digested]:
    """What a process does."""
    return [_digested(task) for task in tasks]


def _digested(task: Task) -> Digested:
    try:
        done = _read(task)
        if not all(_is_as_known(*file) for file in task.files.values()):
            return Digested(task, failed="it changed while it was read")
    except AdapterhubError as error:
        return Digested(task, failed=error.message)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other files are still to be read
        return Digested(task, failed=f"{type(error).__name__}: {error}")
    return done


def _read(task: Task) -> Digested:
    if task.refused:
        hashes = _hashes(task)
        known = _whole(task, hashes)
        if not any(known.values()):
            return Digested(task, hashes)
        return Digested(task, hashes, listed({path.name: told or files.sha256(path) for path, told in known.items()}))
    with files.read(task.path) as package:
        reading, _ = decoded(package, layouts.identify(package))
        whole = reading is not None and reading.kind is Kind.CHECKPOINT
        seen = Weights(reading.adapter) if whole and reading is not None and len(task.files) == 1 else None
        hashes = _hashes(task, () if seen is None else (seen,))
        by_path = _whole(task, hashes)
        digest = digest_of(package, lambda path: by_path.get(path) or files.sha256(path))
        if reading is None:
            return Digested(task, hashes, digest)
        return Digested(task, hashes, digest, fingerprint(reading.adapter, seen), sketch(reading.adapter))


def _whole(task: Task, hashes: Mapping[int, Mapping[str, str]]) -> dict[Path, str | None]:
    """The sha256 of every file; None of an empty one, whose hash is that of every other."""
    return {path: hashes[one].get("sha256") for one, (path, *_) in task.files.items()}


def _hashes(task: Task, also: Collection[Weights] = ()) -> dict[int, dict[str, str]]:
    found = {number: files.every_digest(path, also=also, threads=False) for number, (path, *_) in task.files.items()}
    return {
        number: {name: digits for name, digits in one.items() if digits and not digits.startswith(_OF_NOTHING)}
        for number, one in found.items()
    }


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
    connection.execute("UPDATE records SET hashed = 1, sha256 = ?, fingerprint = ?, sketch = ? WHERE id = ?",
                       (found.sha256, found.fingerprint, found.sketch, found.task.record))  # fmt: skip
    lineage.keep_recipe(connection, found.task.record)
    done.records += 1
    done.bytes += found.task.size
