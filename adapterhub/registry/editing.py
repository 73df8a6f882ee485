"""A header that was edited: the record of its file is told, and still found by the sha256 that the file had.

What covers the tensors alone stays (AutoV3, `sshs_model_hash`, the fingerprint); what covers the whole file is known again when it
is read, at once where it is small, otherwise by the next `adapterhub index`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from adapterhub.documents import HeaderMetadata
from adapterhub.registry import hashing, storing
from adapterhub.registry.database import restored, transaction, writing
from adapterhub.registry.index import Run

READ_WHOLE = 64 << 20
"""Bytes up to which a record is read whole at once."""
_OF_DATA = ("autov3", "sshs_model_hash")
"""Digests that do not cover the header."""
_MEANINGLESS = ("ss_", "sshs_", "ssmd_", "modelspec.")
"""How fields begin that say nothing of what the tensors are."""
_REMEMBERED = 256
_IDENTITY = "kind, layout, architecture, variant"


@dataclass(frozen=True)
class Known:
    """What was known of a file in a record before it was edited."""

    record: int
    path: Path
    file: str | bytes
    identity: tuple[str | None, ...]
    whole: tuple[str | None, bytes | None]
    """Fingerprint and sketch."""
    digests: Mapping[str, str]
    formers: tuple[str, ...]


def record_edit(done: HeaderMetadata, *, db: Path | str | None = None) -> None:
    """Takes note of what `metadata` wrote, in every record that the file belongs to, by whatever name."""
    if done.before is None or done.after is None:
        return
    with writing(db) as connection:
        known = list(_known(connection, done))
        if not known:
            return
        Run(connection, jobs=1).take_in(list(dict.fromkeys(one.path for one in known)))
        with transaction(connection):
            for one in known:
                _remember(connection, one)
                _keep(connection, one, done)
                storing.settle(connection, one.record)
        hashing.hash_all(connection, 1, seen=True, most=READ_WHOLE)


def _known(connection: sqlite3.Connection, done: HeaderMetadata) -> Iterator[Known]:
    """The files that were the edited one; of one that was written anew other names are what they were."""
    assert done.before is not None
    was = (done.before.inode, done.before.device, done.before.size, done.before.mtime_ns)
    rows = connection.execute(
        f"SELECT files.id AS file_id, files.path AS file, records.id, records.path, sha256, fingerprint, sketch, {_IDENTITY} "
        "FROM files JOIN records ON records.id = record_id WHERE role = 'content' AND inode = ? AND device = ? "
        "AND files.size = ? AND mtime_ns = ?", tuple(map(storing.signed, was)),
    ).fetchall()  # fmt: skip
    real = Path(done.path).resolve()
    for row in rows:
        if done.written == "rewritten" and restored(row["file"]).resolve() != real:
            continue
        digests = dict(connection.execute("SELECT name, value FROM hashes WHERE file_id = ?", (row["file_id"],)))
        formers = filter(None, (digests.get("sha256"), row["sha256"]))
        yield Known(row["id"], restored(row["path"]), row["file"], tuple(row)[-4:], (row["fingerprint"], row["sketch"]),
                    {name: digests[name] for name in _OF_DATA if name in digests}, tuple(formers))  # fmt: skip


def _remember(connection: sqlite3.Connection, known: Known) -> None:
    before = connection.execute(
        "SELECT value FROM facts WHERE record_id = ? AND origin = ? AND field = ?",
        (known.record, storing.OURS, storing.FORMER),
    ).fetchone()
    every = dict.fromkeys([*known.formers, *(json.loads(before[0]) if before else ())])
    if every:
        connection.execute(
            "INSERT OR REPLACE INTO facts (record_id, origin, field, value) VALUES (?, ?, ?, ?)",
            (known.record, storing.OURS, storing.FORMER, json.dumps(list(every)[:_REMEMBERED])),
        )


def _keep(connection: sqlite3.Connection, known: Known, done: HeaderMetadata) -> None:
    """What is true of the file as it was before."""
    connection.execute(
        "INSERT OR IGNORE INTO hashes (file_id, name, value) SELECT files.id, json_each.key, json_each.value "
        "FROM files, json_each(?) WHERE record_id = ? AND files.path = ?",
        (json.dumps(dict(known.digests)), known.record, known.file),
    )
    if not all(one.field.startswith(_MEANINGLESS) for one in done.changes):
        return
    row = connection.execute(f"SELECT {_IDENTITY} FROM records WHERE id = ?", (known.record,)).fetchone()
    if tuple(row) == known.identity:
        connection.execute("UPDATE records SET fingerprint = ?, sketch = ? WHERE id = ?", (*known.whole, known.record))
