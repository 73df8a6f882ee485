"""Whether the database of a registry is sound: its pages, its tables, and the index of its texts."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from adapterhub.documents import Finding
from adapterhub.registry import storing
from adapterhub.registry.database import VERSION, blank, legible, transaction, writing

SHOWN = 5
"""Examples of a finding."""
LARGE = 64 << 20
"""Bytes of a write-ahead log that somebody keeps from being taken in."""
_BATCH = 1000
_RESTORE = "adapterhub restore BACKUP; without one, adapterhub index makes a new registry at another --db"
_REBUILD = "adapterhub doctor --rebuild"


def unsound(connection: sqlite3.Connection, path: Path) -> Iterator[Finding]:
    """What is wrong with the database itself, as far as a reader sees it."""
    for check in (_pages, _tables, _orphans, _texts, _log):
        try:
            yield from check(connection, path)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            yield damaged([str(error)])
            return


def is_damage(error: BaseException | None) -> bool:
    """Whether SQLite found that the file is not what it wrote."""
    return isinstance(error, sqlite3.DatabaseError) and (getattr(error, "sqlite_errorname", None) or "").startswith(
        ("SQLITE_CORRUPT", "SQLITE_IOERR_SHORT_READ")
    )


def damaged(examples: list[str]) -> Finding:
    """That pages of the database are broken."""
    return Finding(severity="error", code="damaged", message="the database is damaged", count=len(examples),
                   examples=examples[:SHOWN], mend=_RESTORE)  # fmt: skip


def _pages(connection: sqlite3.Connection, path: Path) -> Iterator[Finding]:
    told = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(100)")]
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    if path.stat().st_size % size:  # which SQLite fills with zeros in silence
        told.append("the file ends within a page")
    if told != ["ok"]:
        yield damaged([one for one in told if one != "ok"])


def _tables(connection: sqlite3.Connection, path: Path) -> Iterator[Finding]:
    """Every table, index, trigger and view as the migrations make them."""
    with blank() as fresh:
        wanted = _schema(fresh)
    there = _schema(connection)
    if odd := sorted(name for name, sql in wanted.items() if there.get(name) != sql):
        yield Finding(severity="error", code="schema", count=len(odd), examples=odd[:SHOWN], mend=_RESTORE,
                      message="tables are missing or are not those of this version")  # fmt: skip
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (applied,) = connection.execute("SELECT count(*) FROM _sqlite_migrations").fetchone()
    if not version == applied == VERSION:
        yield Finding(severity="error", code="version", mend=_RESTORE,
                      message=f"the database says that it is version {version}, and had {applied} migrations of {VERSION}")  # fmt: skip


def _schema(connection: sqlite3.Connection) -> dict[str, str | None]:
    rows = connection.execute("SELECT type || ' ' || name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'")
    return {row[0]: row[1] for row in rows}


def _orphans(connection: sqlite3.Connection, path: Path) -> Iterator[Finding]:
    rows = connection.execute("PRAGMA foreign_key_check").fetchmany(10_000)
    if rows:
        yield Finding(severity="error", code="orphans", count=len(rows), mend=_REBUILD,
                      message="rows belong to records that are not there",
                      examples=sorted({f"{row[0]} of {row[2]}" for row in rows})[:SHOWN])  # fmt: skip


def _texts(connection: sqlite3.Connection, path: Path) -> Iterator[Finding]:
    missing = connection.execute("SELECT path FROM records WHERE id NOT IN (SELECT record_id FROM texts)").fetchall()
    if missing:
        yield Finding(severity="error", code="texts", count=len(missing), mend=_REBUILD,
                      message="records cannot be searched for", examples=[legible(row[0]) for row in missing[:SHOWN]])  # fmt: skip


def _log(connection: sqlite3.Connection, path: Path) -> Iterator[Finding]:
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size > LARGE:
        yield Finding(severity="note", code="large-log", examples=[str(log)],
                      message=f"{log.stat().st_size >> 20} MiB of changes are not taken into the database yet",
                      mend="End the programs that have it open; the next command of adapterhub takes them in")  # fmt: skip


def out_of_step(path: Path) -> Iterator[Finding]:
    """Whether the search index has other words than the texts: FTS5 compares them where it may write, which it takes back."""
    with writing(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute("INSERT INTO texts_fts (texts_fts, rank) VALUES ('integrity-check', 1)")
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            yield Finding(severity="error", code="search-index", mend=_REBUILD,
                          message="the search index is not that of the texts")  # fmt: skip
        finally:
            connection.execute("ROLLBACK")


def rebuild(path: Path) -> int:
    """Makes again whatever follows from other rows, and drops what belongs to no record; gives how many records were settled."""
    with writing(path) as connection:
        with transaction(connection):
            for table, column in _children(connection):
                connection.execute(
                    f"DELETE FROM {table} WHERE {column[0]} NOT IN (SELECT {column[1]} FROM {column[2]})"
                )
            connection.execute("INSERT INTO texts_fts (texts_fts) VALUES ('rebuild')")
        done, last = 0, -1
        while ids := _ids(connection, last):
            with transaction(connection):
                for one in ids:
                    storing.settle(connection, one)
            done, last = done + len(ids), ids[-1]
        with transaction(connection):
            connection.execute("INSERT INTO texts_fts (texts_fts) VALUES ('rebuild')")
        return done


def _children(connection: sqlite3.Connection) -> Iterable[tuple[str, tuple[str, str, str]]]:
    """Every table that refers to another, with the column, and what that refers to."""
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    for name in names:
        for key in connection.execute(f"PRAGMA foreign_key_list({name})").fetchall():
            yield name, (key["from"], key["to"], key["table"])


def _ids(connection: sqlite3.Connection, last: int) -> list[int]:
    return [
        row[0] for row in connection.execute("SELECT id FROM records WHERE id > ? ORDER BY id LIMIT ?", (last, _BATCH))
    ]
