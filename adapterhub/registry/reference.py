"""What a person means by REF: a number (#12), a path, a name, an alias, a token, or the beginning of a hash or fingerprint,
also of the sha256 that it had before its header was edited.
"""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

from adapterhub.errors import NotFound, UsageError
from adapterhub.registry.database import clean, place, restored, stored

SHORTEST = 6
"""The fewest digits that are taken for the beginning of a hash."""
SHOWN = 10
_NUMBER = re.compile(r"#(\d{1,18})")
_DIGITS = re.compile(rf"(?:0x)?([0-9a-f]{{{SHORTEST},64}})", re.IGNORECASE)


def resolve(connection: sqlite3.Connection, ref: str) -> int:
    """The id of the one record that `ref` names. NotFound where there is none, UsageError where there are several.

    What it may be is asked in this order, and the first that finds something counts. A folder is its one record.
    """
    for ask in (_by_number, _by_path, _by_folder, _by_name, _by_trait, _by_hash):
        if found := ask(connection, ref):
            return _only(connection, ref, found)
    raise NotFound(f"nothing in the registry is called {ref}", mend="adapterhub search finds by parts of names; adapterhub index "
                   "takes in new files.")  # fmt: skip


def _only(connection: sqlite3.Connection, ref: str, found: list[int]) -> int:
    present = [one for one in found if not is_gone(connection, one)] if len(found) > 1 else found
    chosen = present or found
    if len(chosen) == 1:
        return chosen[0]
    paths = [_path(connection, one) for one in chosen[:SHOWN]]
    more = f" and {len(chosen) - SHOWN} more" if len(chosen) > SHOWN else ""
    raise UsageError(
        f"{ref} may be any of {', '.join(paths)}{more}", mend="Give a path, or the number that list shows: '#12'."
    )


def is_gone(connection: sqlite3.Connection, record: int) -> bool:
    """Whether its file was missing when its folder was walked, or is no longer there."""
    path, missing = connection.execute("SELECT path, missing FROM records WHERE id = ?", (record,)).fetchone()
    if missing is not None:
        return True
    try:
        restored(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # where nobody may look, nothing is known to be gone
        pass
    return False


def _path(connection: sqlite3.Connection, record: int) -> str:
    (path,) = connection.execute("SELECT path FROM records WHERE id = ?", (record,)).fetchone()
    return f"#{record} {restored(path)}"


def _ids(connection: sqlite3.Connection, sql: str, *given: object) -> list[int]:
    return [row[0] for row in connection.execute(sql, given)]


def _by_number(connection: sqlite3.Connection, ref: str) -> list[int]:
    found = _NUMBER.fullmatch(ref)
    return _ids(connection, "SELECT id FROM records WHERE id = ?", int(found[1])) if found else []


def _by_path(connection: sqlite3.Connection, ref: str) -> list[int]:
    if "\0" in ref:
        return []
    return _ids(connection, "SELECT id FROM records WHERE path = ?", stored(place(ref)))


def _by_folder(connection: sqlite3.Connection, ref: str) -> list[int]:
    if "\0" in ref:
        return []
    return _ids(connection, "SELECT id FROM records WHERE folder = ?", stored(place(ref)))


def _by_name(connection: sqlite3.Connection, ref: str) -> list[int]:
    """By the name with or without its suffix."""
    names = (clean(ref), clean(Path(ref).stem))
    for name in dict.fromkeys(names):
        if found := _ids(connection, "SELECT id FROM records WHERE name = ? COLLATE NOCASE", name):
            return found
    return []


def _by_trait(connection: sqlite3.Connection, ref: str) -> list[int]:
    for trait in ("alias", "token"):
        if found := _ids(connection, "SELECT record_id FROM traits WHERE trait = ? AND value = ?", trait, clean(ref)):
            return found
    return []


def _by_hash(connection: sqlite3.Connection, ref: str) -> list[int]:
    digits = _DIGITS.fullmatch(ref)
    if not digits:
        return []
    start = digits[1].lower()
    hashed = _ids(
        connection,
        "SELECT DISTINCT record_id FROM hashes JOIN files ON files.id = file_id "
        "WHERE value >= ? AND value < ? AND role = 'content' LIMIT 100", start, f"{start}g",
    )  # fmt: skip
    return hashed or _ids(
        connection, "SELECT id FROM records WHERE fingerprint >= ? AND fingerprint < ? LIMIT 100", start, f"{start}g"
    ) or _ids(  # what it was before its header was edited
        connection, "SELECT record_id FROM traits WHERE trait = 'former' AND value >= ? AND value < ? LIMIT 100", start, f"{start}g"
    )  # fmt: skip
