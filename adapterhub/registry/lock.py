"""`lock`: the exact files of a project, in a file that lies beside them and is kept with it.

JSON with a key a line, by path: a change of one adapter is a change of its lines. Paths of this machine are not in it, for it is shared.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from adapterhub.documents import Lock, Locked
from adapterhub.errors import RefusedInput, UsageError
from adapterhub.files.publishing import publish_file, unpublished_file
from adapterhub.files.source import machine
from adapterhub.files.targets import require_file_target
from adapterhub.registry import storing
from adapterhub.registry.database import place, reading, restored
from adapterhub.registry.find import Filter, conditions
from adapterhub.registry.reference import resolve

NAME = "adapterhub.lock"
SOURCES = ("source", "civitai_model", "civitai_version", "repository", "revision")
"""The facts that say where a file can be had."""
LARGEST = 64 << 20
"""Bytes of a lock file."""


def lock(
    *refs: str, wanted: Filter | None = None, target: Path | str = NAME, db: Path | str | None = None, force: bool = False
) -> Lock:  # fmt: skip
    """Writes the files of `refs`, or of the records that `wanted` asks for, or of all that lie below it, to the lock file `target`.

    UsageError for a record that was not read whole, or whose name is no Unicode. OutputExists if `target` is there, unless `force`.
    """
    target = place(target)
    require_file_target(target, [], force=force)
    with reading(db) as connection:
        records = _chosen(connection, refs, wanted or Filter(under=target.parent))
        found = Lock(files=sorted(_named(connection, records, target.parent), key=lambda one: one.path))
    with unpublished_file(target) as (temporary, descriptor), machine("write", target):
        with os.fdopen(descriptor, "wb", closefd=False) as out:
            out.write(found.model_dump_json(indent=2, exclude_none=True).encode() + b"\n")
        os.fsync(descriptor)
        publish_file(temporary, target, force=force)
    return found


def read(path: Path) -> Lock:
    """The lock file at `path`. UsageError where there is none, RefusedInput where it is none."""
    if not path.is_file():
        raise UsageError(f"there is no lock file at {path}", mend="adapterhub lock writes one.")
    with machine("read", path), path.open("rb") as lines:
        text = lines.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise RefusedInput(f"{path}: longer than {LARGEST >> 20} MiB", mend="adapterhub lock writes one.")
    try:
        return Lock.read(text)
    except ValueError as error:
        raise RefusedInput(f"{path}: {error}", mend="adapterhub lock writes one anew.") from None


def _chosen(connection: sqlite3.Connection, refs: tuple[str, ...], wanted: Filter) -> list[int]:
    if refs:
        return list(dict.fromkeys(resolve(connection, ref) for ref in refs))
    where, given = conditions(connection, wanted)
    asked = f" WHERE {' AND '.join(where)}" if where else ""
    found = [row[0] for row in connection.execute(f"SELECT id FROM records{asked} ORDER BY path", given)]
    if not found:
        raise UsageError(
            "nothing to lock: the registry has no such records", mend="Name them, or adapterhub index FOLDER first."
        )
    return found


def _named(connection: sqlite3.Connection, records: list[int], folder: Path) -> Iterator[Locked]:
    """Each file under its path below `folder`; what lies elsewhere under its name, told apart by digest where names are the same."""
    used: dict[str, str] = {}
    for record in records:
        row = connection.execute("SELECT * FROM records WHERE id = ?", (record,)).fetchone()
        root = restored(row["path"]).parent
        for file, digest in _files(connection, row):
            path = _relative(restored(file["path"]), folder, root)
            if used.get(path, digest) != digest:
                path = f"{digest[:8]}-{path}" if "/" not in path else f"{digest[:8]}/{path}"
            elif path in used:
                continue
            used[path] = digest
            yield Locked(path=path, sha256=digest, size=file["size"], name=row["name"], kind=row["kind"],
                         architecture=row["architecture"], layout=row["layout"], fingerprint=row["fingerprint"],
                         sources=_sources(connection, record))  # fmt: skip


def _files(connection: sqlite3.Connection, row: sqlite3.Row) -> Iterator[tuple[sqlite3.Row, str]]:
    files = connection.execute(
        "SELECT path, size, value FROM files LEFT JOIN hashes ON file_id = files.id AND name = 'sha256' "
        "WHERE record_id = ? AND role = 'content' ORDER BY path", (row["id"],),
    ).fetchall()  # fmt: skip
    for file in files:
        if file["value"] is None:
            raise UsageError(f"{restored(file['path'])} was not read whole yet", mend="adapterhub index goes on there.")
        if isinstance(file["path"], bytes):
            raise UsageError(
                f"{restored(file['path'])} has a name that a lock file cannot hold", mend="Rename it, and index again."
            )
        yield file, file["value"]


def _relative(path: Path, folder: Path, root: Path) -> str:
    return path.relative_to(folder if path.is_relative_to(folder) else root).as_posix()


def _sources(connection: sqlite3.Connection, record: int) -> dict[str, str]:
    """Where it can be had, as the one who is believed most says."""
    told = storing.told_by(connection, record)
    return {name: _line(told[name][0]["value"]) for name in SOURCES if name in told}


def _line(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
