"""What others know of a file by its hash: asked once, kept, and told as facts.

Only the hash leaves this machine. An answer is believed where it names the very file, by its SHA-256.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from adapterhub.documents import Trouble
from adapterhub.errors import AdapterhubError, MachineFailure
from adapterhub.registry import storing
from adapterhub.registry.database import transaction
from adapterhub.registry.facts.fact import WrongType
from adapterhub.registry.facts.families import CIVITAI, FAMILIES, is_civitai_version
from adapterhub.registry.facts.rows import facts_of
from adapterhub.registry.facts.sidecars import parsed

Ask = Callable[[str], str | None]
"""The JSON that somebody has of the file with this SHA-256; None where they know none."""
AGAIN = timedelta(days=30)
"""After which what was not known is asked for again; what was known is kept."""
GIVE_UP = 3
"""Questions in a row that fail, after which no more are asked."""


@dataclass
class LookedUp:
    """How many were asked for, of how many something is known, and what went wrong."""

    asked: int = 0
    told: int = 0
    troubles: list[Trouble] = field(default_factory=list)


def look_up(connection: sqlite3.Connection, ask: Ask) -> LookedUp:
    """Asks for every file that was read whole and not asked for before, and takes in what is known of all of them."""
    done = LookedUp()
    failed = 0
    for record, sha256 in _files(connection):
        text, known = _remembered(connection, sha256)
        if not known and failed < GIVE_UP:
            done.asked += 1
            try:
                text = ask(sha256)
            except AdapterhubError as error:
                failed = failed + 1 if isinstance(error, MachineFailure) else failed
                done.troubles.append(Trouble(path=sha256, message=error.message))
                continue
            failed = 0
            _remember(connection, sha256, text)
        done.told += _tell(connection, record, sha256, text, done)
    return done


def _files(connection: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    yield from connection.execute(
        "SELECT DISTINCT records.id, value FROM records JOIN files ON record_id = records.id JOIN hashes ON file_id = files.id "
        "WHERE hashes.name = 'sha256' AND role = 'content' AND missing IS NULL AND kind <> 'unknown' ORDER BY records.id"
    ).fetchall()


def _remembered(connection: sqlite3.Connection, sha256: str) -> tuple[str | None, bool]:
    """The answer that is kept, and whether it is good still."""
    row = connection.execute("SELECT answered, body FROM lookups WHERE hash = ?", (sha256,)).fetchone()
    if row is None:
        return None, False
    limit = (datetime.now(UTC) - AGAIN).strftime("%Y-%m-%dT%H:%M:%SZ")
    return row["body"], row["body"] is not None or row["answered"] > limit


def _remember(connection: sqlite3.Connection, sha256: str, text: str | None) -> None:
    with transaction(connection):
        connection.execute("INSERT OR REPLACE INTO lookups VALUES (?, ?, ?)", (sha256, storing.now(), text))


def _tell(connection: sqlite3.Connection, record: int, sha256: str, text: str | None, done: LookedUp) -> bool:
    """Takes in the facts of an answer; what a side-car of Civitai's says already stands."""
    if text is None:
        return False
    try:
        document = _of_file(parsed(Path(sha256), text.encode()), sha256)
    except AdapterhubError as error:
        done.troubles.append(Trouble(path=sha256, message=error.message))
        return False
    if document is None:
        done.troubles.append(Trouble(path=sha256, message="the answer is about another file, and was left alone"))
        return False
    found = [
        (name, value) for name, value in facts_of(document, FAMILIES[CIVITAI].rows) if not isinstance(value, WrongType)
    ]
    rows = [(record, CIVITAI, name, json.dumps(value)) for name, value in found]
    with transaction(connection):
        connection.executemany(
            "INSERT OR IGNORE INTO facts (record_id, origin, field, value) VALUES (?, ?, ?, ?)", rows
        )
        storing.settle(connection, record)
    return True


def _of_file(document: Any, sha256: str) -> dict[str, Any] | None:
    """A version with that of its files alone which has this digest; None where none has."""
    files = document.get("files") if is_civitai_version(document) else None
    ours = [one for one in files if _digest(one) == sha256] if isinstance(files, list) else []
    return {**document, "files": ours[:1]} if ours else None


def _digest(file: Any) -> str | None:
    hashes = file.get("hashes") if isinstance(file, dict) else None
    told = hashes.get("SHA256") if isinstance(hashes, dict) else None
    return told.lower() if isinstance(told, str) else None
