"""What came from the network or went there: whether it is here already, and where it is there."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

from adapterhub.registry import hashing, storing
from adapterhub.registry.database import exists, legible, place, reading, stored, transaction, writing
from adapterhub.registry.facts.application import of_transfer
from adapterhub.registry.index import Run
from adapterhub.registry.recording import READ_WHOLE


def having(sha256: str, *, db: Path | str | None = None) -> list[str]:
    """The paths of files with this SHA-256 that are not known to be gone; none where there is no registry."""
    if not exists(db):
        return []
    with reading(db) as connection:
        rows = connection.execute(
            "SELECT files.path FROM hashes JOIN files ON files.id = file_id JOIN records ON records.id = record_id "
            "WHERE value = ? AND hashes.name = 'sha256' AND missing IS NULL ORDER BY files.path LIMIT 20", (sha256.lower(),),
        ).fetchall()  # fmt: skip
    return [legible(path) for (path,) in rows]


def keep_transfer(
    origin: str, paths: Sequence[Path | str], told: Mapping[str, str], *, db: Path | str | None = None
) -> None:
    """Takes in what was "pulled" to `paths`, or "pushed" from there, with where that is: see `facts.application.of_transfer`. Several
    files are one adapter or model, and its folder is looked at.
    """
    places = [place(path) for path in paths]
    root = places[0] if len(places) == 1 else Path(os.path.commonpath(places))
    with writing(db) as connection:
        Run(connection, jobs=1).take_in([root])
        hashing.hash_all(connection, 1, seen=True, most=READ_WHOLE)
        with transaction(connection):
            for record in _records(connection, places):
                rows = [(record, fact.origin, fact.field, json.dumps(fact.value)) for fact in of_transfer(origin, told)]
                connection.executemany(
                    "INSERT OR REPLACE INTO facts (record_id, origin, field, value) VALUES (?, ?, ?, ?)", rows
                )
                storing.settle(connection, record)


def _records(connection: sqlite3.Connection, places: Sequence[Path]) -> list[int]:
    """The records that the files belong to."""
    marks = ", ".join("?" * len(places))
    rows = connection.execute(
        f"SELECT DISTINCT record_id FROM files WHERE role = 'content' AND path IN ({marks}) "
        f"UNION SELECT id FROM records WHERE path IN ({marks})",
        [*map(stored, places)] * 2,
    )
    return [record for (record,) in rows.fetchall()]
