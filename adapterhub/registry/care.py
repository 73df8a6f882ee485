"""What needs care among the files that a registry knows: looked at from outside, nothing is read."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from typing import Literal, NamedTuple

from adapterhub.documents import Finding
from adapterhub.registry import storing
from adapterhub.registry.database import legible
from adapterhub.registry.facts import Disagreement, Fact, contradictions, disagreements
from adapterhub.registry.soundness import SHOWN


class Asked(NamedTuple):
    """A finding that one question tells: its rows are paths."""

    severity: Literal["warning", "note"]
    code: str
    sql: str
    message: str
    mend: str


_PRESENT = "FROM records WHERE missing IS NULL"
ASKED = (
    Asked("warning", "missing", "SELECT path FROM records WHERE missing IS NOT NULL",
          "files are gone from the disk", "adapterhub remove --missing forgets them; adapterhub index finds what moved"),
    Asked("warning", "refused", f"SELECT path {_PRESENT} AND refused IS NOT NULL",
          "files are malformed or unsafe", "adapterhub validate FILE says why"),
    Asked("warning", "pickles", f"SELECT path {_PRESENT} AND container IN ('torch-zip', 'torch-legacy') AND refused IS NULL",
          "files are pickles, which run code in programs that trust them", "adapterhub convert FILE -o FILE.safetensors --for kohya"),
    Asked("note", "waiting", f"SELECT path {_PRESENT} AND hashed = 0",
          "files are still to be read whole: they have no hashes yet", "adapterhub index"),
    Asked("warning", "odd-side-cars", f"SELECT path FROM facts JOIN records ON id = record_id WHERE origin = '{storing.ODD}'",
          "side-cars could not be read, or not wholly", "adapterhub show REF says what is wrong"),
)  # fmt: skip
"""A new finding is a new row here, if one question tells it."""


def needs_care(connection: sqlite3.Connection) -> Iterator[Finding]:
    """Files that are gone, changed, refused, pickles, unread, twice there, or about which different things are said."""
    for asked in ASKED:
        (count,) = connection.execute(f"SELECT count(*) FROM ({asked.sql})").fetchone()
        if count:
            rows = connection.execute(f"{asked.sql} LIMIT {SHOWN}")
            yield Finding(severity=asked.severity, code=asked.code, message=asked.message, count=count, mend=asked.mend,
                          examples=[legible(row[0]) for row in rows])  # fmt: skip
    yield from _on_disk(connection)
    yield from _twice(connection)
    yield from _told_differently(connection)


def _on_disk(connection: sqlite3.Connection) -> Iterator[Finding]:
    """Files that are gone or changed since they were indexed, by what the folder says of them."""
    gone, changed = _Many(), _Many()
    rows = connection.execute(
        "SELECT files.path, files.size, mtime_ns FROM files JOIN records ON records.id = record_id "
        "WHERE role = 'content' AND missing IS NULL"
    )  # fmt: skip
    for path, size, mtime_ns in rows:
        try:
            found = os.stat(path)  # noqa: PTH116 (a Path for each of a million takes longer than the look)
        except OSError:
            gone.add(legible(path))
            continue
        if (found.st_size, found.st_mtime_ns) != (size, mtime_ns):
            changed.add(legible(path))
    for many, code, message in (
        (gone, "gone", "files are no longer there"),
        (changed, "changed", "files have changed"),
    ):
        if many.count:
            yield Finding(severity="warning", code=code, message=f"{message} since they were indexed", count=many.count,
                          examples=many.examples, mend="adapterhub index")  # fmt: skip


class _Many:
    """How many there are, and the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self.examples: list[str] = []

    def add(self, example: str) -> None:
        self.count += 1
        if self.count <= SHOWN:
            self.examples.append(example)


_COPIES = """
    SELECT min(path) AS path, (count(DISTINCT inode || ' ' || device) - 1) * max(size) AS wasted
    FROM (SELECT files.path, inode, device, files.size, value FROM hashes JOIN files ON files.id = file_id
          JOIN records ON records.id = record_id WHERE hashes.name = 'sha256' AND role = 'content' AND missing IS NULL)
    GROUP BY value HAVING count(DISTINCT inode || ' ' || device) > 1
"""


def _twice(connection: sqlite3.Connection) -> Iterator[Finding]:
    """Equal files that are no hard links of each other."""
    count, wasted = connection.execute(f"SELECT count(*), total(wasted) FROM ({_COPIES})").fetchone()
    if count:
        rows = connection.execute(f"{_COPIES} ORDER BY wasted DESC LIMIT {SHOWN}")
        yield Finding(severity="note", code="duplicates", message=f"files are there several times: {wasted / 1e6:.3g} MB could be saved",
                      count=count, examples=[legible(row[0]) for row in rows], mend="adapterhub duplicates")  # fmt: skip


def _told_differently(connection: sqlite3.Connection) -> Iterator[Finding]:
    """Side-cars and headers that cannot all be right, and claimed hashes that the file does not have."""
    differ, wrong = _Many(), _Many()
    for record, path in connection.execute("SELECT id, path FROM records WHERE id IN (SELECT record_id FROM facts)"):
        facts = storing.facts_of(connection, record)
        for one in disagreements(facts):
            differ.add(f"{legible(path)}: {_told(one)}")
        for fact in contradictions(facts, _digests(connection, record)):
            wrong.add(f"{legible(path)}: {fact.field.removeprefix('hash.')} of {fact.origin} is {fact.value}")
    if differ.count:
        yield Finding(severity="warning", code="disagreements", message="side-cars and headers say different things",
                      count=differ.count, examples=differ.examples, mend="adapterhub show REF says who says what")  # fmt: skip
    if wrong.count:
        yield Finding(severity="warning", code="wrong-hashes", message="side-cars tell hashes that the files do not have",
                      count=wrong.count, examples=wrong.examples, mend="the side-car is of another file, or the file is broken: get it again")  # fmt: skip


def _told(one: Disagreement) -> str:
    return f"{one.field} is " + ", ".join(f"{_short(fact)} ({fact.origin})" for fact in one.facts)


def _short(fact: Fact) -> str:
    text = json.dumps(fact.value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _digests(connection: sqlite3.Connection, record: int) -> dict[str, str | None]:
    """The digests of a record that is one file."""
    rows = connection.execute(
        "SELECT name, value FROM hashes JOIN files ON files.id = file_id WHERE record_id = ? AND role = 'content'", (record,)
    ).fetchall()  # fmt: skip
    found = {row[0]: row[1] for row in rows}
    return found if len(found) == len(rows) else {}
