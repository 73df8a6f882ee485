"""`tag`, `note`, `rate`, `alias`, `remove`: what a person says about a record. It stays when files change, move or are gone."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.errors import NotFound, UsageError
from adapterhub.registry import storing
from adapterhub.registry.database import clean, restored, transaction, writing
from adapterhub.registry.facts import settled
from adapterhub.registry.reference import is_gone, resolve
from adapterhub.registry.show import shown

if TYPE_CHECKING:
    from adapterhub.documents import Record

STARS = range(6)
"""What a record can be rated with; 0 takes the rating away."""


def tag(ref: str, *tags: str, remove: Sequence[str] = (), db: Path | str | None = None) -> Record:
    """Gives the record `tags`, and takes those in `remove` away, whoever said them: from then on its tags are the user's."""
    given, taken = [_label(one) for one in tags], [_label(one) for one in remove]

    def change(connection: sqlite3.Connection, record: int) -> None:
        there = settled(storing.facts_of(connection, record)).get("tags")
        before = list(there.value) if there is not None and isinstance(there.value, tuple) else []
        if missing := [one for one in taken if one.casefold() not in map(str.casefold, before)]:
            raise NotFound(f"{ref} has no tag {missing[0]!r}", mend=f"adapterhub show {ref} lists its tags.")
        _say(connection, record, tags=_distinct(_without(before, taken) + given))

    return _changed(ref, change, db)


def note(ref: str, text: str, *, db: Path | str | None = None) -> Record:
    """Keeps a note about the record in place of the one before; an empty one takes it away."""
    return _changed(ref, lambda connection, record: _say(connection, record, notes=text.strip() or None), db)


def rate(ref: str, stars: int, *, db: Path | str | None = None) -> Record:
    """Rates the record with one to five `stars`; 0 takes the rating away."""
    if stars not in STARS:
        raise UsageError(f"{stars} stars is no rating", mend="Give 1 to 5, or 0 to take it away.")
    return _changed(ref, lambda connection, record: _say(connection, record, rating=stars or None), db)


def alias(ref: str, *names: str, remove: Sequence[str] = (), db: Path | str | None = None) -> Record:
    """Lets the record be called by `names` too, and no longer by those in `remove`."""
    given, taken = [_label(one) for one in names], [_label(one) for one in remove]

    def change(connection: sqlite3.Connection, record: int) -> None:
        before = list(storing.of_user(connection, record).get("aliases", ()))
        if missing := [one for one in taken if one.casefold() not in map(str.casefold, before)]:
            raise NotFound(f"{ref} is not called {missing[0]!r}", mend=f"adapterhub show {ref} lists its aliases.")
        _say(connection, record, aliases=_distinct(_without(before, taken) + given))

    return _changed(ref, change, db)


def remove(*refs: str, missing: bool = False, db: Path | str | None = None) -> list[Record]:
    """Forgets records, and all that was said about them; with `missing` those whose files are gone from folders that are there: a
    disk that is not mounted may come back. Files stay as they are.
    """
    with writing(db) as connection, transaction(connection):
        ids = [resolve(connection, ref) for ref in refs]
        if missing:
            rows = connection.execute("SELECT id, path, missing FROM records ORDER BY id").fetchall()
            ids += [record for record, path, noted in rows
                    if noted is not None or (is_gone(connection, record) and restored(path).parent.is_dir())]  # fmt: skip
        gone = [shown(connection, one) for one in dict.fromkeys(ids)]
        connection.executemany("DELETE FROM records WHERE id = ?", [(one,) for one in dict.fromkeys(ids)])
    return gone


def _changed(ref: str, change: Callable[[sqlite3.Connection, int], None], db: Path | str | None) -> Record:
    with writing(db) as connection, transaction(connection):
        record = resolve(connection, ref)
        change(connection, record)
        storing.settle(connection, record)
        return shown(connection, record)


def _say(connection: sqlite3.Connection, record: int, **facts: Any) -> None:
    for name, value in facts.items():
        if value or name == "tags":  # no tags at all are said, too
            connection.execute("INSERT OR REPLACE INTO facts (record_id, origin, field, value) VALUES (?, 'user', ?, ?)",
                               (record, name, json.dumps(value)))  # fmt: skip
        else:
            connection.execute(
                "DELETE FROM facts WHERE record_id = ? AND origin = 'user' AND field = ?", (record, name)
            )


def _label(text: str) -> str:
    """A tag or a name as it is kept: on one line, without outer blanks."""
    label = " ".join(clean(text).split())
    if not label:
        raise UsageError("an empty name", mend="Give at least one letter.")
    return label


def _without(values: Sequence[str], taken: Sequence[str]) -> list[str]:
    gone = {one.casefold() for one in taken}
    return [value for value in values if value.casefold() not in gone]


def _distinct(values: Sequence[str]) -> list[str]:
    return list({value.casefold(): value for value in reversed(values)}.values())[::-1]
