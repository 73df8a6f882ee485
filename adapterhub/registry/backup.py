"""`backup` and `restore`: the registry as one file, whole whatever happens.

A backup is SQLite's VACUUM INTO: what the database is at one moment, while others read and write. A restore is one transaction in the
registry itself (SQLite's backup interface), so that a kill leaves the one or the other, and whoever has it open sees either.
"""

from __future__ import annotations

import os
import sqlite3
from itertools import chain, count
from pathlib import Path

from adapterhub.documents import Copied
from adapterhub.errors import AdapterhubError, MachineFailure, RefusedInput, UsageError
from adapterhub.files.publishing import publish_file, unpublished_file
from adapterhub.files.targets import require_file_target
from adapterhub.registry.database import default_path, explained, place, reading, stored, unchanged, writing
from adapterhub.registry.soundness import is_damage

_PATIENCE = 5_000
"""Milliseconds to wait for another process that writes."""
_BESIDE = ("-wal", "-shm")


def backup(target: Path | str, *, db: Path | str | None = None, force: bool = False) -> Copied:
    """Copies the registry to the file `target`, and checks the copy. OutputExists if that is there, unless `force`."""
    source, target = _place(db), place(target)
    require_file_target(target, [source], force=force)
    if any(_beside(target, end).exists() for end in _BESIDE):
        raise UsageError(f"{target} is a database that is in use", mend="Give another output path.")
    with reading(source) as connection:
        return _copied(connection, source, target, force=force)


def _copied(connection: sqlite3.Connection, source: Path, target: Path, *, force: bool) -> Copied:
    with unpublished_file(target) as (temporary, descriptor), explained(target):
        _vacuum(connection, source, temporary)
        records = _checked(temporary)
        os.fsync(descriptor)
        publish_file(temporary, target, force=force)
    return Copied(source=str(source), target=str(target), records=records, size=target.stat().st_size)


def _vacuum(connection: sqlite3.Connection, source: Path, target: Path) -> None:
    try:
        connection.execute("VACUUM INTO ?", (stored(target),))
    except sqlite3.IntegrityError as error:  # rows that no command could have written
        raise RefusedInput(
            f"the registry {source} is damaged ({error})", mend="adapterhub doctor says more."
        ) from error


def _checked(path: Path) -> int:
    """How many records a registry has. RefusedInput where it is damaged, or none."""
    with unchanged(path) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_schema").fetchone():
            raise RefusedInput(f"{path} is empty", mend="Give a file that adapterhub backup wrote.")
        told = [row[0] for row in connection.execute("PRAGMA integrity_check(1)")]
        if told != ["ok"]:
            raise RefusedInput(f"{path} is damaged: {told[0]}", mend="Give an older backup.")
        return int(connection.execute("SELECT count(*) FROM records").fetchone()[0])


def restore(source: Path | str, *, db: Path | str | None = None) -> Copied:
    """Makes the registry what it was when the backup `source` was made; what it was until now is kept beside it.

    MachineFailure while another process writes.
    """
    source, target = place(source), _place(db)
    if target.exists() and source.exists() and source.samefile(target):
        raise UsageError(f"{source} is the registry itself", mend="Give a file that adapterhub backup wrote.")
    records = _checked(source)
    kept = _kept(target)
    with writing(target) as connection, unchanged(source) as copy, explained(target):
        connection.execute(f"PRAGMA busy_timeout = {_PATIENCE}")
        copy.backup(connection, progress=_refuse_to_wait)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return Copied(source=str(source), target=str(target), records=records, size=target.stat().st_size,
                  replaced=None if kept is None else str(kept))  # fmt: skip


def _refuse_to_wait(status: int, remaining: int, total: int) -> None:
    """Python asks for ever, where another process writes; SQLite has waited already."""
    if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        raise MachineFailure(
            "another process writes to the registry", mend="Try again when that is done; nothing was changed."
        )


def _kept(target: Path) -> Path | None:
    """Keeps what is there now under a name that is free; one that is damaged is put aside as it is, and one that knows nothing
    is not kept.
    """
    if not target.exists():
        return None
    kept = _free(target)
    try:
        with unchanged(target) as connection:
            if _knows_nothing(connection):
                return None
            _copied(connection, target, kept, force=False)
    except AdapterhubError as error:
        if not _is_broken(error):
            raise
        _put_aside(target, kept)
    return kept


def _free(target: Path) -> Path:
    """`registry.db.before-restore`, or -2, -3 …: what was kept once is never replaced."""
    names = chain([f"{target.name}.before-restore"], (f"{target.name}.before-restore-{number}" for number in count(2)))
    return next(
        path
        for name in names
        if not any(_beside(path := target.with_name(name), end).exists() for end in ("", *_BESIDE))
    )


def _knows_nothing(connection: sqlite3.Connection) -> bool:
    """Whether nothing was ever indexed; a restore that was killed may leave such a registry."""
    if not connection.execute("SELECT 1 FROM sqlite_schema").fetchone():
        return True
    known = "SELECT EXISTS (SELECT 1 FROM records) OR EXISTS (SELECT 1 FROM recipes) OR EXISTS (SELECT 1 FROM roots)"
    return not connection.execute(known).fetchone()[0]


def _is_broken(error: AdapterhubError) -> bool:
    name = getattr(error.__cause__, "sqlite_errorname", None) or ""
    return is_damage(error.__cause__) or name.startswith(("SQLITE_NOTADB", "SQLITE_ERROR", "SQLITE_CONSTRAINT"))


def _put_aside(target: Path, kept: Path) -> None:
    """A damaged database with its log, which stays until the name is free: at any moment one of both names has it."""
    for end in ("", *_BESIDE):
        if _beside(target, end).exists():
            os.link(_beside(target, end), _beside(kept, end))
    for end in (*_BESIDE, ""):
        _beside(target, end).unlink(missing_ok=True)


def _beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)


def _place(db: Path | str | None) -> Path:
    return place(default_path() if db is None else db)
