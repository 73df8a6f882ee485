"""`export`: what the registry knows as lines of JSON, one a record or recipe, or as a Parquet table for other tools.

Rows are written as they come, so that a million take no more memory than a thousand.
"""

from __future__ import annotations

import json
import os
import sqlite3
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from adapterhub.documents import Exported
from adapterhub.errors import UsageError
from adapterhub.files.publishing import publish_file, unpublished_file
from adapterhub.files.source import machine
from adapterhub.files.targets import require_file_target
from adapterhub.registry import storing
from adapterhub.registry.database import legible, reading
from adapterhub.registry.find import Filter, as_json, conditions, rows_of

FORMATS = ("jsonl", "parquet")
HEAD = {"type": "export", "version": 1}
EVERYTHING = Filter(missing=None)
_AT_ONCE = 500


def export(
    target: Path | str, wanted: Filter = EVERYTHING, *, form: str = "jsonl", db: Path | str | None = None, force: bool = False
) -> Exported:  # fmt: skip
    """Writes the records that `wanted` asks for, and the recipes of their files, to `target` as `form`: one of FORMATS.

    Parquet has the records alone. OutputExists if `target` is there, unless `force`.
    """
    if form not in FORMATS:
        raise UsageError(f"unknown format {form!r}", mend=f"Known: {', '.join(FORMATS)}.")
    target = Path(target)
    require_file_target(target, [], force=force)
    with reading(db) as connection, unpublished_file(target) as (temporary, descriptor), machine("write", target):
        with os.fdopen(descriptor, "wb", closefd=False) as out:
            records, recipes = _written(connection, wanted, form, out)
        os.fsync(descriptor)
        publish_file(temporary, target, force=force)
    return Exported(target=str(target), records=records, recipes=recipes)


def _written(connection: sqlite3.Connection, wanted: Filter, form: str, out: BinaryIO) -> tuple[int, int]:
    if form == "parquet":
        from adapterhub.registry.parquet import write

        return write(out, records(connection, wanted)), 0
    counts = {"export": 0, "record": 0, "recipe": 0}
    for line in told(connection, wanted):
        counts[line["type"]] += 1
        out.write(json.dumps(line).encode() + b"\n")
    return counts["record"], counts["recipe"]


def exported(wanted: Filter = EVERYTHING, *, db: Path | str | None = None) -> Iterator[str]:
    """The lines of an export: the head, then records by number, then recipes."""
    with reading(db) as connection:
        yield from map(json.dumps, told(connection, wanted))


def told(connection: sqlite3.Connection, wanted: Filter) -> Iterator[dict[str, Any]]:
    """The lines of an export as what `documents.ExportHead`, `ExportedRecord` and `ExportedRecipe` hold."""
    yield HEAD
    with _at_one_moment(connection):
        yield from records(connection, wanted)
        yield from _recipes(connection, wanted)


@contextmanager
def _at_one_moment(connection: sqlite3.Connection) -> Iterator[None]:
    """All questions inside are answered from one state of the database, whoever writes meanwhile."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")


def records(connection: sqlite3.Connection, wanted: Filter) -> Iterator[dict[str, Any]]:
    """The records that `wanted` asks for, by number, with all that belongs to them."""
    where, given = conditions(connection, wanted)
    last = -1
    while rows := rows_of(
        connection, "records", [*where, "records.id > ?"], [*given, last], "records.id", _AT_ONCE
    ).fetchall():
        for row in rows:
            yield _record(connection, row)
        last = rows[-1]["id"]


def _record(connection: sqlite3.Connection, row: sqlite3.Row) -> dict[str, Any]:
    record = row["id"]
    (sketch,) = connection.execute("SELECT sketch FROM records WHERE id = ?", (record,)).fetchone()
    metadata = connection.execute("SELECT fields FROM metadata WHERE record_id = ?", (record,)).fetchone()
    return {
        "type": "record", **json.loads(as_json(row)), "raw": _raw(row["path"]),
        "sketch": None if sketch is None else b64encode(sketch).decode(),
        "files": list(_files(connection, record)), "facts": storing.told_by(connection, record),
        "metadata": json.loads(metadata[0]) if metadata else {},
    }  # fmt: skip


def _files(connection: sqlite3.Connection, record: int) -> Iterator[dict[str, Any]]:
    for row in connection.execute("SELECT * FROM files WHERE record_id = ? ORDER BY role, path", (record,)).fetchall():
        hashes = connection.execute("SELECT name, value FROM hashes WHERE file_id = ? ORDER BY name", (row["id"],))
        yield {"path": legible(row["path"]), "raw": _raw(row["path"]), "role": row["role"], "size": row["size"],
               "mtime_ns": row["mtime_ns"], "hashes": dict(hashes)}  # fmt: skip


def _recipes(connection: sqlite3.Connection, wanted: Filter) -> Iterator[dict[str, Any]]:
    where, given = conditions(connection, wanted)
    chosen = f"WHERE sha256 IN (SELECT sha256 FROM records WHERE {' AND '.join(where)})" if where else ""
    for row in connection.execute(f"SELECT * FROM recipes {chosen} ORDER BY sha256", given):
        parents = connection.execute(
            "SELECT name, sha256, fingerprint FROM parents WHERE recipe_id = ? ORDER BY place", (row["id"],)
        )
        path = {} if row["path"] is None else {"path": legible(row["path"]), "raw": _raw(row["path"])}
        yield {"type": "recipe", **{name: row[name] for name in ("sha256", "name", "command", "version", "recorded")}, **path,
               "parameters": json.loads(row["parameters"]), "parents": [dict(parent) for parent in parents]}  # fmt: skip


def _raw(path: str | bytes) -> str | None:
    """The bytes of a name that is no UTF-8, which text cannot tell."""
    return b64encode(path).decode() if isinstance(path, bytes) else None
