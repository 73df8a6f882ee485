"""Rows of what was identified, written all or none; what follows from them (`traits`, `texts`) is made anew each time."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adapterhub.registry.database import stored
from adapterhub.registry.migrations import SEARCHED
from adapterhub.registry.said import Fact, said_of

_RECORD = ("path", "folder", "name", "application", "kind", "container", "layout", "architecture", "variant", "rank",
           "tensors", "parameters", "size", "modified", "refused", "reason", "details")  # fmt: skip
_DERIVED = ("word", "tag", "alias")
"""The traits that follow from facts; the others follow from the file."""


def now() -> str:
    """The time to the second, UTC, as the registry writes times."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(mtime_ns: int) -> str:
    """A time of the file system as the registry writes it."""
    try:
        return datetime.fromtimestamp(mtime_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return "1970-01-01T00:00:00Z"


def clean(text: object) -> str:
    """Text that SQLite takes: what is no Unicode is escaped."""
    return str(text).encode("utf-8", "backslashreplace").decode()


def put_record(connection: sqlite3.Connection, columns: Mapping[str, Any]) -> int:
    """Inserts or replaces the record of a path, whose hashes are to be computed again; gives its id."""
    given = {name: columns.get(name) for name in _RECORD}
    given["details"] = given["details"] or "{}"
    names, marks = ", ".join(_RECORD), ", ".join("?" * len(_RECORD))
    changes = ", ".join(f"{name} = excluded.{name}" for name in _RECORD)
    row = connection.execute(
        f"INSERT INTO records ({names}, added) VALUES ({marks}, ?) ON CONFLICT (path) DO UPDATE SET {changes}, "
        "missing = NULL, hashed = 0, sha256 = NULL, fingerprint = NULL, sketch = NULL RETURNING id",
        (*given.values(), now()),
    ).fetchone()
    return int(row[0])


def put_files(connection: sqlite3.Connection, record: int, files: Iterable[tuple[Path, str, Sequence[int]]]) -> None:
    """Replaces the files of a record, each (path, role, (device, inode, size, mtime_ns))."""
    connection.execute("DELETE FROM files WHERE record_id = ?", (record,))
    connection.executemany(
        "INSERT OR IGNORE INTO files (record_id, path, role, device, inode, size, mtime_ns) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(record, stored(path), role, *map(signed, stat)) for path, role, stat in files],
    )


def signed(number: int) -> int:
    """A number of 64 bits as SQLite has them; inodes may be unsigned."""
    return number - (1 << 64) if number >= 1 << 63 else number


def put_metadata(connection: sqlite3.Connection, record: int, metadata: str) -> None:
    """Replaces the header's text fields, given as JSON."""
    connection.execute("INSERT OR REPLACE INTO metadata VALUES (?, ?)", (record, metadata))


def put_traits(connection: sqlite3.Connection, record: int, traits: Iterable[tuple[str, str]]) -> None:
    """Replaces the traits that follow from the file."""
    connection.execute(f"DELETE FROM traits WHERE record_id = ? AND trait NOT IN {_DERIVED}", (record,))
    connection.executemany(
        "INSERT OR IGNORE INTO traits (trait, value, record_id) VALUES (?, ?, ?)",
        [(trait, clean(value), record) for trait, value in traits],
    )


def put_facts(connection: sqlite3.Connection, record: int, facts: Iterable[tuple[str, str, Any]]) -> None:
    """Replaces what others than the user say of a record, each (origin, field, value)."""
    connection.execute("DELETE FROM facts WHERE record_id = ? AND origin <> 'user'", (record,))
    connection.executemany(
        "INSERT OR REPLACE INTO facts (record_id, origin, field, value) VALUES (?, ?, ?, ?)",
        [(record, origin, name, json.dumps(value)) for origin, name, value in facts],
    )


def of_user(connection: sqlite3.Connection, record: int) -> dict[str, Any]:
    """What the user says of a record, by field."""
    rows = connection.execute("SELECT field, value FROM facts WHERE record_id = ? AND origin = 'user'", (record,))
    return {name: json.loads(value) for name, value in rows}


def facts_of(connection: sqlite3.Connection, record: int) -> list[Fact]:
    """Everything that is said about a record."""
    rows = connection.execute("SELECT field, value, origin FROM facts WHERE record_id = ?", (record,))
    return [Fact(name, json.loads(value), origin) for name, value, origin in rows]


def settle(connection: sqlite3.Connection, record: int) -> None:
    """Makes the traits and the text anew that follow from the facts about a record."""
    name, tokens = _name_and_tokens(connection, record)
    said = said_of(facts_of(connection, record))
    derived = {"word": said["words"], "tag": said["tags"], "alias": said["aliases"]}
    connection.execute(f"DELETE FROM traits WHERE record_id = ? AND trait IN {_DERIVED}", (record,))
    connection.executemany(
        "INSERT OR IGNORE INTO traits (trait, value, record_id) VALUES (?, ?, ?)",
        [(trait, clean(value), record) for trait, values in derived.items() for value in values],
    )
    text = {
        "name": [name, *said["title"], *said["aliases"]], "words": [*tokens, *said["words"]], "tags": said["tags"],
        "notes": said["notes"], "description": said["description"], "training": said["training_tags"],
    }  # fmt: skip
    changes = ", ".join(f"{column} = excluded.{column}" for column in SEARCHED)
    connection.execute(
        f"INSERT INTO texts (record_id, {', '.join(SEARCHED)}) VALUES (?, ?, ?, ?, ?, ?, ?) "
        f"ON CONFLICT (record_id) DO UPDATE SET {changes}",
        (record, *(clean(" ".join(text[column])) for column in SEARCHED)),
    )


def _name_and_tokens(connection: sqlite3.Connection, record: int) -> tuple[str, list[str]]:
    (name,) = connection.execute("SELECT name FROM records WHERE id = ?", (record,)).fetchone()
    tokens = connection.execute("SELECT value FROM traits WHERE record_id = ? AND trait = 'token'", (record,))
    return name, [value for (value,) in tokens]


def told_by(connection: sqlite3.Connection, record: int) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for fact in facts_of(connection, record):
        found.setdefault(fact.field, []).append({"value": fact.value, "origin": fact.origin})
    return found
