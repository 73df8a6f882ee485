"""What the registry knows of files that are met again: whether they are the same by path, inode, size and time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from adapterhub.registry import storing
from adapterhub.registry.database import stored
from adapterhub.registry.places import Found, OnDisk

Signature = tuple[str | bytes, int, int, int]
"""Path, inode, size, time."""


class Known(NamedTuple):
    """What the registry knows of a path: the record, and what its files were."""

    id: int
    missing: bool
    files: frozenset[Signature]
    beside: frozenset[Signature]


def known(connection: sqlite3.Connection, batch: Sequence[Found]) -> dict[str | bytes, Known]:
    """What is known of each path, by path."""
    rows = connection.execute(
        "SELECT records.path, records.id, missing, files.path AS file, role, inode, files.size, mtime_ns FROM records "
        f"JOIN files ON record_id = records.id WHERE records.path IN ({_marks(batch)})", _paths(batch),
    ).fetchall()  # fmt: skip
    found: dict[str | bytes, list[sqlite3.Row]] = {}
    for row in rows:
        found.setdefault(row["path"], []).append(row)
    return {path: Known(of[0]["id"], of[0]["missing"] is not None, _signed(row for row in of if row["role"] == "content"),
                        _signed(row for row in of if row["role"] != "content")) for path, of in found.items()}  # fmt: skip


def passed(connection: sqlite3.Connection, batch: Sequence[Found]) -> dict[str | bytes, frozenset[Signature]]:
    """The files that hold nothing of ours."""
    rows = connection.execute(
        f"SELECT path, path AS file, inode, size, mtime_ns FROM passed WHERE path IN ({_marks(batch)})", _paths(batch)
    )
    return {row["path"]: _signed([row]) for row in rows}


def _marks(batch: Sequence[Found]) -> str:
    return ", ".join("?" * len(batch))


def _paths(batch: Sequence[Found]) -> list[str | bytes]:
    return [stored(found.path) for found in batch]


def _signed(rows: Iterable[sqlite3.Row]) -> frozenset[Signature]:
    return frozenset((row["file"], row["inode"], row["size"], row["mtime_ns"]) for row in rows)


def signature(files: Iterable[OnDisk]) -> frozenset[Signature]:
    """What files on the disk are known again by."""
    return frozenset(
        (stored(file.path), storing.signed(file.inode), file.size, storing.signed(file.mtime_ns)) for file in files
    )
