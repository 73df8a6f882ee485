"""Records whose files are the same on the disk, under other names or in another place: what is known of one is true of the other."""

from __future__ import annotations

import sqlite3

from adapterhub.registry.database import restored

_Files = dict[tuple[str, int, int, int, int], int]


def share(connection: sqlite3.Connection, known: int, record: int) -> bool:
    """Gives `record` the digests, fingerprint and sketch of `known`, if all files of both are the same by inode, size and time, and
    called alike within them. Gives whether it has them.
    """
    theirs, mine = _content(connection, known), _content(connection, record)
    if not mine or mine.keys() != theirs.keys():
        return False
    for key, file in mine.items():
        connection.execute(
            "INSERT OR REPLACE INTO hashes SELECT ?, name, value FROM hashes WHERE file_id = ?", (file, theirs[key])
        )
    done = connection.execute(
        "UPDATE records SET (hashed, sha256, fingerprint, sketch) = (SELECT hashed, sha256, fingerprint, sketch FROM records WHERE id = ?) "
        "WHERE id = ? AND hashed = 0 AND (SELECT hashed FROM records WHERE id = ?)", (known, record, known),
    )  # fmt: skip
    return bool(done.rowcount)


def _content(connection: sqlite3.Connection, record: int) -> _Files:
    """The files of a record, by what they are called within it and what they are on the disk; a single file is called anything."""
    rows = connection.execute(
        "SELECT files.id, files.path, records.path AS whole, device, inode, files.size, mtime_ns FROM files "
        "JOIN records ON records.id = record_id WHERE record_id = ? AND role = 'content'", (record,),
    ).fetchall()  # fmt: skip
    names = {row["id"]: str(restored(row["path"])).removeprefix(str(restored(row["whole"]))) for row in rows}
    return {("" if len(rows) == 1 else names[row["id"]], *tuple(row)[3:]): row["id"] for row in rows}
