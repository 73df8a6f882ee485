"""What became of files that are no longer where they were: gone, or moved, and then what was said about them goes along."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from adapterhub.registry import storing, twins
from adapterhub.registry.database import restored, within
from adapterhub.registry.reference import is_gone


def note_missing(connection: sqlite3.Connection, roots: Sequence[Path], unread: Sequence[Path]) -> int:
    """Marks the records under `roots` that were not seen, unless they lie under a folder that could not be read."""
    gone = set()
    unread = [folder for folder in unread if folder.exists()]
    for root in roots:
        condition, given = within(root)
        for record, path in connection.execute(
            f"SELECT id, path FROM records WHERE missing IS NULL AND id NOT IN (SELECT id FROM seen) AND {condition}", given
        ):  # fmt: skip
            if not any(restored(path).is_relative_to(folder) for folder in unread):
                gone.add(record)
    connection.executemany("UPDATE records SET missing = ? WHERE id = ?", [(storing.now(), record) for record in gone])
    return len(gone)


def by_inode(connection: sqlite3.Connection, since: str) -> int:
    """Records that came since then, and are files that are missing elsewhere by inode, size and time."""
    pairs = connection.execute(
        "SELECT DISTINCT old.id, new.id FROM records AS new JOIN files AS here ON here.record_id = new.id AND here.role = 'content' "
        "JOIN files AS there ON there.inode = here.inode AND there.device = here.device AND there.size = here.size "
        "AND there.mtime_ns = here.mtime_ns AND there.role = 'content' JOIN records AS old ON old.id = there.record_id "
        "WHERE new.added >= ? AND new.missing IS NULL AND new.id <> old.id", (since,),
    ).fetchall()  # fmt: skip
    return _adopt(connection, pairs)


def by_content(connection: sqlite3.Connection, since: str) -> int:
    """Records that came since then, and have the sha256 of one that is missing elsewhere."""
    pairs = connection.execute(
        "SELECT old.id, new.id FROM records AS new JOIN records AS old ON old.sha256 = new.sha256 AND old.id <> new.id "
        "WHERE new.added >= ? AND new.missing IS NULL AND new.id <> old.id", (since,),
    ).fetchall()  # fmt: skip
    return _adopt(connection, pairs)


def _adopt(connection: sqlite3.Connection, pairs: Sequence[tuple[int, int]]) -> int:
    """Makes each new record the old one at another place: its number, what the user said, when it was added."""
    done: set[int] = set()
    for old, new in pairs:
        if old in done or new in done or not is_gone(connection, old):
            continue
        done |= {old, new}
        connection.execute(
            f"UPDATE OR IGNORE facts SET record_id = ? WHERE record_id = ? AND origin IN {(*storing.LASTING, *storing.TRANSFERS)}",
            (new, old),
        )
        connection.execute(
            "UPDATE records SET added = (SELECT added FROM records WHERE id = ?) WHERE id = ?", (old, new)
        )
        twins.share(connection, old, new)
        connection.execute("DELETE FROM records WHERE id = ?", (old,))
        storing.settle(connection, new)
    return len(done) // 2
