"""`import`: what another registry exported comes into this one; all of it or, where a line is wrong, nothing.

A record that is here by its path, or by its sha256 from before, keeps what it is; what people said of it there and here is kept of
both. Files of another machine have no inode here, so that they are never taken for a link of another file.
"""

from __future__ import annotations

import json
import sqlite3
from base64 import b64decode
from binascii import Error as NoBase64
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from adapterhub.documents import ExportedRecipe, ExportedRecord, ExportHead, Imported
from adapterhub.errors import RefusedInput, UsageError
from adapterhub.files.source import machine
from adapterhub.registry import storing
from adapterhub.registry.database import default_path, restored, stored, transaction, writing
from adapterhub.registry.facts.fact import FIELDS, tidy
from adapterhub.registry.identified import DETAILS
from adapterhub.sketch import DIMENSIONS

LONGEST = 64 << 20
"""Bytes of a line: metadata of 16 MB, escaped, and a lot of side-cars."""
ELSEWHERE = -1
"""The device of a file that this machine has not looked at yet."""
_JOINED = ("tags", "aliases", "tags_removed")
_COLUMNS = ("name", "application", "kind", "container", "layout", "architecture", "variant", "rank", "tensors", "parameters",
            "size", "modified", "added", "missing", "refused", "reason", "sha256", "fingerprint", "hashed")  # fmt: skip
_LINES: dict[str, type[ExportedRecord | ExportedRecipe | ExportHead]] = {
    "record": ExportedRecord,
    "recipe": ExportedRecipe,
    "export": ExportHead,
}


def import_(source: Path | str, *, db: Path | str | None = None) -> Imported:
    """Takes the JSON lines that `export` wrote to `source` into the registry `db`. RefusedInput where a line is none of ours."""
    path = Path(source)
    if not path.exists():
        raise UsageError(f"{path} does not exist", mend="Give the file that adapterhub export wrote.")
    if path.is_dir():
        raise UsageError(f"{path} is a folder", mend="Give the file that adapterhub export wrote.")
    with machine("read", path), path.open("rb") as lines, writing(db) as connection, transaction(connection):
        taken = _Taken(connection)
        for number, line in enumerate(_split(lines, path), 1):
            taken.take(_parsed(line, path, number), path, number)
        return Imported(db=str(default_path() if db is None else db), **taken.counts)


def _split(lines: BinaryIO, path: Path) -> Iterator[bytes]:
    number = 0
    while line := lines.readline(LONGEST + 1):
        number += 1
        if len(line) > LONGEST:
            raise RefusedInput(f"{path}, line {number}: longer than {LONGEST >> 20} MiB", mend=_MEND)
        yield line
    if not number:
        raise RefusedInput(f"{path} is empty", mend=_MEND)


_MEND = "Nothing was taken. adapterhub export writes what import reads."


def _parsed(line: bytes, path: Path, number: int) -> ExportedRecord | ExportedRecipe | ExportHead:
    """A line as the document that it says it is."""
    try:
        found = _LINES[json.loads(line)["type"]].read(line)
    except (KeyError, TypeError, RecursionError):
        raise RefusedInput(f"{path}, line {number}: no line of an export", mend=_MEND) from None
    except ValueError as error:
        raise RefusedInput(f"{path}, line {number}: {error}", mend=_MEND) from None
    if number == 1 and not isinstance(found, ExportHead):
        raise RefusedInput(f"{path}, line 1: an export begins with its head", mend=_MEND)
    return found


@dataclass
class _Taken:
    """What was taken in so far; `before` is the last record that was here."""

    connection: sqlite3.Connection
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("added", "merged", "recipes"), 0))
    before: int = 0
    files: int = 0

    def __post_init__(self) -> None:
        self.before = self.connection.execute("SELECT coalesce(max(id), 0) FROM records").fetchone()[0]
        self.files = self.connection.execute("SELECT coalesce(max(id), 0) FROM files").fetchone()[0]

    def take(self, found: ExportedRecord | ExportedRecipe | ExportHead, path: Path, number: int) -> None:
        try:
            if isinstance(found, ExportedRecord):
                self._record(found)
            elif isinstance(found, ExportedRecipe):
                self._recipe(found)
        except (NoBase64, sqlite3.IntegrityError, OverflowError, ValueError) as error:
            raise RefusedInput(f"{path}, line {number}: {error}", mend=_MEND) from None

    def _record(self, found: ExportedRecord) -> None:
        known = self._known(found)
        if known is None:
            known = self._added(found)
            self.counts["added"] += 1
        else:
            self.counts["merged"] += 1
            _merge(self.connection, known, found)
        storing.settle(self.connection, known)

    def _known(self, found: ExportedRecord) -> int | None:
        """Two copies in one export are two records."""
        row = self.connection.execute(
            "SELECT id FROM records WHERE path = ? UNION ALL SELECT id FROM records WHERE sha256 = ? AND id <= ? LIMIT 1",
            (_path(found.path, found.raw), found.sha256, self.before),
        ).fetchone()
        return None if row is None else int(row[0])

    def _added(self, found: ExportedRecord) -> int:
        path = _path(found.path, found.raw)
        details = found.model_dump_json(include=set(DETAILS), exclude_defaults=True, ensure_ascii=True)
        columns = {
            **{name: getattr(found, name) for name in _COLUMNS}, "path": path, "folder": stored(restored(path).parent), "details": details,
            "sketch": None if found.sketch is None else _sketch(found.sketch),
        }  # fmt: skip
        if not self.before and found.id > 0:  # the first that came into this registry: numbers stay what they were
            columns["id"] = found.id
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        row = self.connection.execute(
            f"INSERT INTO records ({names}) VALUES ({marks}) RETURNING id", [*columns.values()]
        ).fetchone()
        self._files(int(row[0]), found)
        storing.put_metadata(self.connection, row[0], json.dumps(found.metadata or {}))
        storing.put_traits(self.connection, row[0], traits(found))
        _say(
            self.connection,
            row[0],
            [(one.origin, name, one.value) for name, told in (found.facts or {}).items() for one in told],
        )
        return int(row[0])

    def _files(self, record: int, found: ExportedRecord) -> None:
        for file in found.files or ():
            self.files += 1
            self.connection.execute(
                "INSERT INTO files (id, record_id, path, role, device, inode, size, mtime_ns) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    self.files,
                    record,
                    _path(file.path, file.raw),
                    file.role,
                    ELSEWHERE,
                    -self.files,
                    file.size,
                    file.mtime_ns,
                ),
            )
            self.connection.executemany(
                "INSERT INTO hashes (file_id, name, value) VALUES (?, ?, ?)",
                [(self.files, name, value) for name, value in file.hashes.items()],
            )

    def _recipe(self, found: ExportedRecipe) -> None:
        path = None if found.path is None else _path(found.path, found.raw)
        row = self.connection.execute(
            "INSERT OR IGNORE INTO recipes (sha256, name, command, version, parameters, path, recorded) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id",
            (
                found.sha256,
                found.name,
                found.command,
                found.version,
                json.dumps(found.parameters),
                path,
                found.recorded,
            ),
        ).fetchone()
        if row is not None:
            self.counts["recipes"] += 1
            self.connection.executemany(
                "INSERT INTO parents (recipe_id, place, name, sha256, fingerprint) VALUES (?, ?, ?, ?, ?)",
                [(row[0], place, one.name, one.sha256, one.fingerprint) for place, one in enumerate(found.parents)],
            )


def traits(found: ExportedRecord) -> Iterator[tuple[str, str]]:
    """What a record is filtered by that follows from its file."""
    for trait, values in (
        ("algorithm", found.algorithms), ("rank", found.ranks), ("component", found.components), ("dtype", found.dtypes),
        ("also", found.also), ("token", [token.token for token in found.tokens]), ("problem", [problem.code for problem in found.problems]),
    ):  # fmt: skip
        yield from ((trait, value) for value in values)


def _merge(connection: sqlite3.Connection, record: int, found: ExportedRecord) -> None:
    """Adds what is said there and not here; of what the user said here nothing is lost."""
    mine = storing.of_user(connection, record)
    for name, told in (found.facts or {}).items():
        for one in told:
            value = _of_both(name, mine[name], one.value) if one.origin == "user" and name in mine else one.value
            replaced = "REPLACE" if one.origin == "user" else "IGNORE"
            _say(connection, record, [(one.origin, name, value)], replaced)


def _of_both(name: str, mine: Any, theirs: Any) -> Any:
    if name in _JOINED and isinstance(theirs, list):
        known = {one.casefold() for one in mine}
        return [*mine, *(one for one in theirs if one.casefold() not in known)]
    if name == "notes" and str(theirs) not in str(mine):
        return f"{mine}\n\n{theirs}"
    return mine


def _sketch(text: str) -> bytes:
    sketch = b64decode(text, validate=True)
    if len(sketch) != 4 * DIMENSIONS:
        raise ValueError("a sketch of another size")
    return sketch


def _say(
    connection: sqlite3.Connection, record: int, said: list[tuple[str, str, Any]], otherwise: str = "IGNORE"
) -> None:
    connection.executemany(
        f"INSERT OR {otherwise} INTO facts (record_id, origin, field, value) VALUES (?, ?, ?, ?)",
        [(record, origin, name, json.dumps(_fitting(name, value))) for origin, name, value in said],
    )


def _fitting(name: str, value: Any) -> Any:
    """The value of a fact, which the rest of the registry takes to be of its sort. WrongType, a ValueError, where it is not."""
    if name in FIELDS:
        tidy(name, value)
    if name in _JOINED and not isinstance(value, list):
        raise ValueError(f"{name} is no list")
    return value


def _path(text: str, raw: str | None) -> str | bytes:
    path = text if raw is None else b64decode(raw, validate=True)
    start, nothing = ("/", "\0") if isinstance(path, str) else (b"/", b"\0")
    if not path.startswith(start) or nothing in path:  # type: ignore[arg-type, operator]
        raise ValueError("a path that is not absolute, or holds a NUL")
    return path
