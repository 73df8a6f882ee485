"""What a command wrote comes into the registry at once, with what it was made of."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from adapterhub.documents import Conversion, Recipe, Source, Target, Training
from adapterhub.registry import hashing, lineage
from adapterhub.registry.database import place, stored, transaction, writing
from adapterhub.registry.index import Run

READ_WHOLE = 1 << 30
"""Bytes above which a file is left to `adapterhub index` to be read whole: writing it took less long."""


def record(done: Conversion, *, db: Path | str | None = None) -> None:
    """Takes in the files that `done` read and wrote, and keeps its recipe."""
    if done.dry_run or done.recipe is None:
        return
    _record(list(done.inputs or [done.source]), [done.target], done.recipe, db)


def record_training(done: Training, *, db: Path | str | None = None) -> None:
    """Takes in the base and the files of a training, and keeps how they were made. A base of the Hub is no file that stays."""
    _record([done.base], done.files, done.recipe, db)


def _record(read: Sequence[Source], written: Sequence[Target], recipe: Recipe, db: Path | str | None) -> None:
    paths = [place(path) for path in (*(one.path for one in read), *(one.path for one in written))]
    with writing(db) as connection:
        run = Run(connection, jobs=1)
        run.take_in([path for path in dict.fromkeys(paths) if path.exists()])
        with transaction(connection):
            for path, digest in [(one.path, one.sha256) for one in written] + [(one.path, one.sha256) for one in read]:
                _keep_digest(connection, place(path), digest)
        hashing.hash_all(connection, 1, seen=True, most=READ_WHOLE)
        with transaction(connection):
            for one in written:
                _keep_recipe(connection, one, recipe)


def _keep_digest(connection: sqlite3.Connection, path: Path, digest: str | None) -> None:
    """What is known of a file need not be read again to be found."""
    if digest is not None:
        connection.execute("UPDATE records SET sha256 = coalesce(sha256, ?) WHERE path = ?", (digest, stored(path)))


def _keep_recipe(connection: sqlite3.Connection, written: Target, recipe: Recipe) -> None:
    """The parents of what was just written are known by their paths, too."""
    target = place(written.path)
    row = connection.execute("SELECT name, sha256 FROM records WHERE path = ?", (stored(target),)).fetchone()
    if row is not None and row["sha256"] is not None:
        lineage.put_recipe(connection, row["sha256"], row["name"], recipe, stored(target))
