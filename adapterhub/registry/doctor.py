"""`doctor`: is the registry sound, and what needs care. It changes nothing, unless it is asked to make derived rows again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from adapterhub.documents import Diagnosis, Finding
from adapterhub.errors import AdapterhubError, MachineFailure
from adapterhub.registry import soundness
from adapterhub.registry.care import needs_care
from adapterhub.registry.database import default_path, exists, reading
from adapterhub.registry.soundness import damaged, is_damage, out_of_step, unsound

GRAVEST = ("error", "warning", "note")


def doctor(*, db: Path | str | None = None, rebuild: bool = False) -> Diagnosis:
    """Looks over the registry `db`; with `rebuild` what follows from other rows (search index, texts, traits) is made again first.

    RefusedInput where the file is no registry at all; one that is damaged has findings.
    """
    path = default_path() if db is None else Path(db)
    if not exists(path):
        nothing = Finding(
            severity="note", code="no-registry", message="there is no registry yet", mend="adapterhub index FOLDER"
        )
        return Diagnosis(db=str(path), exists=False, sqlite=sqlite3.sqlite_version, findings=[nothing])
    try:
        return _looked_over(path, soundness.rebuild(path) if rebuild else 0)
    except AdapterhubError as error:
        if not is_damage(error.__cause__):
            raise
        return Diagnosis(
            db=str(path), exists=True, sqlite=sqlite3.sqlite_version, findings=[damaged([str(error.__cause__)])]
        )


def _looked_over(path: Path, rebuilt: int) -> Diagnosis:
    with reading(path) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        found = list(unsound(connection, path))
        if not any(one.code in ("damaged", "schema") for one in found):
            found += chain(_index(path), needs_care(connection))
        records = _count(connection)
    found.sort(key=lambda one: GRAVEST.index(one.severity))
    return Diagnosis(db=str(path), exists=True, version=version, sqlite=sqlite3.sqlite_version, records=records,
                     rebuilt=rebuilt, findings=found)  # fmt: skip


def _index(path: Path) -> Iterator[Finding]:
    """FTS5 looks at its index where it may write; elsewhere it is not looked at, which is said."""
    try:
        yield from out_of_step(path)
    except MachineFailure as error:
        yield Finding(
            severity="note", code="search-index-unseen", message=f"the search index was not looked at: {error.message}"
        )


def _count(connection: sqlite3.Connection) -> int:
    try:
        return int(connection.execute("SELECT count(*) FROM records").fetchone()[0])
    except sqlite3.DatabaseError:
        return 0
