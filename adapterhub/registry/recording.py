"""What a command wrote comes into the registry at once, with what it was made of."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from adapterhub.documents import Conversion, Source
from adapterhub.registry import hashing, lineage
from adapterhub.registry.database import place, stored, transaction, writing
from adapterhub.registry.index import Run

READ_WHOLE = 1 << 30
"""Bytes above which a file is left to `adapterhub index` to be read whole: writing it took less long."""


def record(done: Conversion, *, db: Path | str | None = None) -> None:
    """Takes in the files that `done` read and wrote, and keeps its recipe."""
    if done.dry_run or done.recipe is None:
        return
    paths = [place(path) for path in (*_read(done), done.target.path)]
    with writing(db) as connection:
        run = Run(connection, jobs=1)
        run.take_in([path for path in dict.fromkeys(paths) if path.exists()])
        with transaction(connection):
            for path, digest in (
                (done.target.path, done.target.sha256),
                *((one.path, one.sha256) for one in _sources(done)),
            ):
                _keep_digest(connection, place(path), digest)
        hashing.hash_all(connection, 1, seen=True, most=READ_WHOLE)
        with transaction(connection):
            _keep_recipe(connection, done)


def _sources(done: Conversion) -> list[Source]:
    return list(done.inputs or [done.source])


def _read(done: Conversion) -> Iterator[str]:
    yield from (one.path for one in _sources(done))


def _keep_digest(connection: sqlite3.Connection, path: Path, digest: str | None) -> None:
    """What is known of a file need not be read again to be found."""
    if digest is not None:
        connection.execute("UPDATE records SET sha256 = coalesce(sha256, ?) WHERE path = ?", (digest, stored(path)))


def _keep_recipe(connection: sqlite3.Connection, done: Conversion) -> None:
    """The parents of what was just written are known by their paths, too."""
    target = place(done.target.path)
    row = connection.execute("SELECT name, sha256 FROM records WHERE path = ?", (stored(target),)).fetchone()
    if row is None or row["sha256"] is None or done.recipe is None:
        return
    lineage.put_recipe(connection, row["sha256"], row["name"], done.recipe, stored(target))
