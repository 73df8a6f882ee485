"""`index`: what lies under folders comes into the registry: first what everything is, from its header, then digests of it all.

What did not change by path, size, time and inode is not read. Every batch is one transaction, so that a kill loses a second's
work; what has no digests yet says so in its row, and the next run goes on there.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adapterhub.documents import Indexing, Trouble
from adapterhub.errors import AdapterhubError, UsageError
from adapterhub.registry import hashing, known, lookups, moving, storing
from adapterhub.registry.database import clean, default_path, place, reading, restored, stored, transaction, writing
from adapterhub.registry.facts import PREVIEWS, Listing
from adapterhub.registry.identified import Identified, Task, looked_at
from adapterhub.registry.lookups import Ask
from adapterhub.registry.places import Found, OnDisk, on_disk, walk
from adapterhub.registry.places import Trouble as Obstacle
from adapterhub.registry.workers import carried_out, in_batches, together

LOOKED_UP = 500
"""Paths that are looked up at a time."""
TASK = 16
"""Files that a process identifies before it reports."""


def index(
    *paths: Path | str,
    db: Path | str | None = None,
    jobs: int | None = None,
    hash: bool = True,  # noqa: A002 (--no-hash)
    ask: Ask | None = None,
) -> Indexing:
    """Brings the adapters and models under `paths` into the registry `db`; without any, those under all that were given before.

    They are identified and then, unless `hash` is false, read whole for their digests, fingerprint and sketch. No file is moved
    or changed. `jobs` are processes: as many as there are processors, or this one alone where it has threads of its own; if a
    number is given there, multiprocessing wants a main module that can be imported. `ask` is asked for what others know of
    each by its SHA-256 (`hub.civitai.Civitai().by_hash`), once for each hash.
    """
    started = time.perf_counter()
    with writing(db) as connection:
        run = Run(connection, jobs)
        run.index([place(path) for path in paths] or _roots(connection))
        done = hashing.hash_all(connection, jobs) if hash else hashing.Hashing()
        with transaction(connection):
            run.moved(moving.by_content(connection, run.began))
        looked = lookups.LookedUp() if ask is None else lookups.look_up(connection, ask)
        connection.execute("PRAGMA analysis_limit = 400")
        connection.execute("PRAGMA optimize")  # what the choice of an index is based on
        return Indexing(
            db=str(default_path() if db is None else db), **run.counts, hashed=done.records, bytes=done.bytes,
            waiting=hashing.waiting(connection), applications=sorted(run.applications),
            asked=looked.asked, told=looked.told,
            troubles=[*run.troubles, *done.troubles, *looked.troubles], seconds=round(time.perf_counter() - started, 3),
        )  # fmt: skip


def known_roots(db: Path | str | None = None) -> list[Path]:
    """What was indexed before. UsageError where nothing was."""
    with reading(db) as connection:
        return _roots(connection)


def _roots(connection: sqlite3.Connection) -> list[Path]:
    roots = [restored(path) for (path,) in connection.execute("SELECT path FROM roots ORDER BY path")]
    if not roots:
        raise UsageError("nothing was indexed before", mend="Give the folders to index.")
    return roots


class Companions:
    """What lies beside files, by the listing of the folder that is walked."""

    def __init__(self) -> None:
        self._listing: Listing | None = None

    def of(self, found: Found) -> tuple[OnDisk, ...]:
        """The side-cars and previews of a single file, as they are on the disk."""
        if len(found.files) != 1:
            return ()
        folder = found.path.parent
        try:
            if self._listing is None or self._listing.folder != folder:
                self._listing = Listing(folder)
        except AdapterhubError:  # its side-cars cannot be seen, and the walk tells of folders that cannot be read
            return ()
        there = (on_disk(str(path)) for path in self._listing.beside(found.path.name))
        return tuple(file for file in there if isinstance(file, OnDisk))


@dataclass
class Run:
    """One walk, and what came of it."""

    connection: sqlite3.Connection
    jobs: int | None
    began: str = field(default_factory=storing.now)
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("found", "new", "changed", "unchanged", "moved", "missing", "refused"), 0
        )
    )
    applications: set[str] = field(default_factory=set)
    troubles: list[Trouble] = field(default_factory=list)
    beside: Companions = field(default_factory=Companions)

    def count(self, what: str, many: int = 1) -> None:
        self.counts[what] += many

    def moved(self, many: int) -> None:
        """So many are neither new nor missing."""
        self.count("moved", many)
        self.count("new", -many)
        self.counts["missing"] = max(0, self.counts["missing"] - many)

    def index(self, roots: Sequence[Path]) -> None:
        """Identifies what is new or changed under `roots`, and notes what is gone."""
        self._know(roots)
        self.take_in(roots)
        with transaction(self.connection):
            gone = moving.note_missing(self.connection, roots, [Path(one.path) for one in self.troubles])
            self.count("missing", gone)
            self.moved(moving.by_inode(self.connection, self.began))

    def take_in(self, roots: Sequence[Path]) -> None:
        """Identifies what is new or changed under `roots`."""
        self.connection.execute("CREATE TEMP TABLE IF NOT EXISTS seen (id INTEGER PRIMARY KEY)")
        changed = (task for batch in in_batches(self._walk(roots), LOOKED_UP) for task in self._changed(batch))
        for done in together(carried_out(looked_at, changed, self.jobs, size=TASK)):
            with transaction(self.connection):
                for task, found in done:
                    self._put(task, found)

    def _know(self, roots: Sequence[Path]) -> None:
        with transaction(self.connection):
            for root in roots:
                row = self.connection.execute("SELECT 1 FROM roots WHERE path = ?", (stored(root),)).fetchone()
                if row is None and not root.exists():
                    raise UsageError(f"{root}: no such file or folder")
                self.connection.execute("INSERT OR IGNORE INTO roots (path) VALUES (?)", (stored(root),))

    def _walk(self, roots: Iterable[Path]) -> Iterator[Found]:
        for found in walk(roots):
            if isinstance(found, Obstacle):
                self.troubles.append(Trouble(path=str(found.path), message=found.reason))
                continue
            if found.application:
                self.applications.add(found.application)
            yield found

    def _changed(self, batch: Sequence[Found]) -> Iterator[Task]:
        """Those of the batch that must be looked at."""
        before = known.known(self.connection, batch)
        passed = known.passed(self.connection, batch)
        seen = []
        for found in batch:
            key = stored(found.path)
            if passed.get(key) == known.signature(found.files):
                continue
            self.count("found")
            beside = self.beside.of(found)
            record = before.get(key)
            if record is not None:
                seen.append((record.id,))
            if record is None or record.files != known.signature(found.files):
                self.count("new" if record is None else "changed")
                yield Task(found, known=record is not None, beside=beside)
            elif record.missing or record.beside != known.signature(beside):
                self.count("changed")
                yield Task(found, known=True, beside=beside, only_beside=True)
            else:
                self.count("unchanged")
        self.connection.executemany("INSERT OR IGNORE INTO seen VALUES (?)", seen)

    def _put(self, task: Task, found: Identified) -> None:
        """Writes what was found, unless it could not be read."""
        if found.passed:
            self.count("found", -1)
            self.count("changed" if task.known else "new", -1)
            self._pass_over(task.found)
            return
        if found.failed is not None:
            self.count("changed" if task.known else "new", -1)
            self.troubles.append(Trouble(path=str(task.found.path), message=found.failed))
            return
        record = self._beside(task) if task.only_beside else self._record(task, found)
        if record is None:  # another process forgot it meanwhile
            return
        storing.put_facts(self.connection, record, found.facts, found.odd, header=not task.only_beside)
        storing.settle(self.connection, record)
        self.connection.execute("INSERT OR IGNORE INTO seen VALUES (?)", (record,))

    def _record(self, task: Task, found: Identified) -> int:
        seen = task.found
        newest = max(file.mtime_ns for file in seen.files)
        record = storing.put_record(self.connection, {
            **found.columns, "path": stored(seen.path), "folder": stored(seen.path.parent), "application": seen.application,
            "name": clean(_name(seen)), "size": sum(file.size for file in seen.files),
            "modified": storing.moment(newest)})  # fmt: skip
        storing.put_files(
            self.connection, record, [*((file.path, "content", file[1:]) for file in seen.files), *_roles(task.beside)]
        )
        storing.put_metadata(self.connection, record, found.metadata)
        storing.put_traits(self.connection, record, found.traits)
        self.count("refused", found.columns.get("refused") is not None)
        return record

    def _beside(self, task: Task) -> int | None:
        """Of a record that is as it was: what lies beside it."""
        row = self.connection.execute(
            "UPDATE records SET missing = NULL WHERE path = ? RETURNING id", (stored(task.found.path),)
        ).fetchone()
        if row is not None:
            storing.replace_files(self.connection, row["id"], _roles(task.beside))
        return None if row is None else int(row["id"])

    def _pass_over(self, found: Found) -> None:
        """What holds nothing of ours is no record, or no longer."""
        self.connection.execute("DELETE FROM records WHERE path = ?", (stored(found.path),))
        if len(found.files) == 1:
            self.connection.execute("INSERT OR REPLACE INTO passed VALUES (?, ?, ?, ?, ?)",
                                    (stored(found.path), *map(storing.signed, found.files[0][1:])))  # fmt: skip


def _roles(beside: Iterable[OnDisk]) -> list[tuple[Path, str, tuple[int, int, int, int]]]:
    return [
        (file.path, "preview" if file.path.name.lower().endswith(PREVIEWS) else "sidecar", file[1:]) for file in beside
    ]


def _name(found: Found) -> str:
    """What people call it: without suffix; a folder keeps its name."""
    return (
        found.path.name
        if found.path.is_dir()
        else found.path.name.removesuffix(".index.json").rpartition(".")[0] or found.path.name
    )
