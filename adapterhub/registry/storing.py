"""Rows of what was identified, written all or none; what follows from them (`traits`, `texts`) is made anew each time."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adapterhub.files import Problem
from adapterhub.registry.database import clean, stored
from adapterhub.registry.facts import OF_HEADER, Fact, Value, rank, settled

_RECORD = ("path", "folder", "name", "application", "kind", "container", "layout", "architecture", "variant", "rank",
           "tensors", "parameters", "size", "modified", "refused", "reason", "details")  # fmt: skip
SEARCHED = ("name", "words", "tags", "notes", "description", "training")
"""The columns of `texts`, the most telling first."""
_DERIVED = ("word", "tag", "alias", "former")
"""The traits that follow from facts; the others follow from the file."""
ODD = "side-cars"
"""The origin of what is wrong with side-cars."""
OURS = "adapterhub"
"""The origin of what the registry itself remembers of a record."""
FORMER = "former_sha256"
"""The digests that a file had before its header was edited, the latest first."""
TRANSFERS = ("pulled", "pushed")
"""Origins of where a file came from or went, which is true of it as long as it is the same."""
LASTING = ("user", OURS)
"""Origins that a file which changes, or is found elsewhere, does not take away."""


def now() -> str:
    """The time to the second, UTC, as the registry writes times."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(mtime_ns: int) -> str:
    """A time of the file system as the registry writes it."""
    try:
        return datetime.fromtimestamp(mtime_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return "1970-01-01T00:00:00Z"


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


OfFile = tuple[Path, str, Sequence[int]]
"""path, role, (device, inode, size, mtime_ns)"""


def replace_files(connection: sqlite3.Connection, record: int, beside: Iterable[OfFile]) -> None:
    """Replaces what lies beside a record."""
    connection.execute("DELETE FROM files WHERE record_id = ? AND role <> 'content'", (record,))
    _insert_files(connection, record, beside)


def put_files(connection: sqlite3.Connection, record: int, files: Iterable[OfFile]) -> None:
    """Replaces the files of a record."""
    connection.execute("DELETE FROM files WHERE record_id = ?", (record,))
    _insert_files(connection, record, files)


def _insert_files(connection: sqlite3.Connection, record: int, files: Iterable[OfFile]) -> None:
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


def put_facts(
    connection: sqlite3.Connection, record: int, facts: Iterable[Fact], odd: Iterable[Problem], *, header: bool = True
) -> None:
    """Replaces what others than the user and the registry say of a record, and what is `odd` about how they say it; without `header` what its
    header says stays.
    """
    kept = (*LASTING, *(() if header else (*OF_HEADER, *TRANSFERS)))
    connection.execute(
        f"DELETE FROM facts WHERE record_id = ? AND origin NOT IN ({', '.join('?' * len(kept))})", (record, *kept)
    )
    rows = [(record, fact.origin, fact.field, json.dumps(fact.value)) for fact in facts]
    if complaints := [f"{problem.code}: {problem.where}: {problem.message}" for problem in odd]:
        rows.append((record, ODD, "problems", json.dumps(complaints)))
    connection.executemany("INSERT OR REPLACE INTO facts (record_id, origin, field, value) VALUES (?, ?, ?, ?)", rows)


def of_user(connection: sqlite3.Connection, record: int) -> dict[str, Any]:
    """What the user says of a record, by field."""
    return {fact.field: fact.value for fact in facts_of(connection, record) if fact.origin == "user"}


def facts_of(connection: sqlite3.Connection, record: int) -> list[Fact]:
    """Everything that is said about a record."""
    rows = connection.execute("SELECT field, value, origin FROM facts WHERE record_id = ?", (record,))
    return [Fact(name, _value(json.loads(value)), origin) for name, value, origin in rows]


def _value(value: Any) -> Value:
    return tuple(value) if isinstance(value, list) else value


def told_by(connection: sqlite3.Connection, record: int) -> dict[str, list[dict[str, Any]]]:
    """What is said about a record by field, each with who says so, who is believed most first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for fact in sorted(facts_of(connection, record), key=lambda fact: (fact.field, rank(fact))):
        value = list(fact.value) if isinstance(fact.value, tuple) else fact.value
        found.setdefault(fact.field, []).append({"value": value, "origin": fact.origin})
    return found


def settle(connection: sqlite3.Connection, record: int) -> None:
    """Makes the traits and the text anew that follow from the facts about a record."""
    name, tokens = _name_and_tokens(connection, record)
    known = settled(facts_of(connection, record))
    said = {
        field: list(one.value) if isinstance(one.value, tuple) else [str(one.value)] for field, one in known.items()
    }
    derived = {"word": said.get("words", []), "tag": said.get("tags", []),
               "alias": [*said.get("aliases", []), *said.get("alias", [])], "former": said.get(FORMER, [])}  # fmt: skip
    connection.execute(f"DELETE FROM traits WHERE record_id = ? AND trait IN {_DERIVED}", (record,))
    connection.executemany(
        "INSERT OR IGNORE INTO traits (trait, value, record_id) VALUES (?, ?, ?)",
        [(trait, clean(value), record) for trait, values in derived.items() for value in values],
    )
    text = {
        "name": [name, *said.get("title", []), *derived["alias"]], "words": [*tokens, *derived["word"]], "tags": derived["tag"],
        "notes": said.get("notes", []), "training": said.get("training_tags", []),
        "description": [*said.get("description", []), *said.get("version_description", [])],
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
