"""`show`: everything that the registry knows of one record."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from adapterhub.documents import Record
from adapterhub.registry import storing
from adapterhub.registry.database import reading, restored
from adapterhub.registry.find import one_row
from adapterhub.registry.reference import resolve


def show(ref: str, *, db: Path | str | None = None) -> Record:
    """The record that `ref` names, with its files and their hashes, what is said about it and by whom, and its metadata."""
    with reading(db) as connection:
        return shown(connection, resolve(connection, ref))


def shown(connection: sqlite3.Connection, record: int) -> Record:
    """The record with that number."""
    told = json.loads(one_row(connection, record))
    metadata = connection.execute("SELECT fields FROM metadata WHERE record_id = ?", (record,)).fetchone()
    return Record.model_validate(
        told
        | {
            "files": list(_files(connection, record)),
            "facts": storing.told_by(connection, record),
            "metadata": json.loads(metadata[0]) if metadata else {},
        }
    )


def _files(connection: sqlite3.Connection, record: int) -> list[dict[str, Any]]:
    found = []
    for row in connection.execute(
        "SELECT id, path, role, size FROM files WHERE record_id = ? ORDER BY role, path", (record,)
    ):
        hashes = dict(connection.execute("SELECT name, value FROM hashes WHERE file_id = ?", (row["id"],)).fetchall())
        found.append({"path": restored(row["path"]), "role": row["role"], "size": row["size"], "hashes": hashes})
    return found
