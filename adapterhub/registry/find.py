"""`list`, `search` and `show`: questions to the registry.

What was typed is data: words to find are quoted, names are parameters. The newest come first, so that the first hundred of a
million are found without looking at the rest. A row becomes JSON by putting texts together, which pydantic would take
twenty times as long for; `documents.Record` is what it holds to.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import adapterhub.architectures as architectures
import adapterhub.layouts as layouts
from adapterhub.errors import UnknownName, UsageError
from adapterhub.registry.database import clean, legible, place, reading, within

if TYPE_CHECKING:
    from adapterhub.documents import Record

_HEAD = ("id", "path", "name", "application", "kind", "container", "layout", "architecture", "variant", "rank", "tensors",
         "parameters", "size", "modified", "added", "missing", "refused", "reason", "sha256", "fingerprint", "hashed")  # fmt: skip
SORTS = {"added": "id DESC", "name": "name COLLATE NOCASE, id", "size": "size DESC, id", "modified": "modified DESC, id",
         "rank": "rank DESC, id", "path": "path, id"}  # fmt: skip
WEIGHTS = (10.0, 8.0, 5.0, 3.0, 2.0, 1.0)
"""How much a hit counts in each column of `texts`."""
FEW = 10_000
"""Records with a trait that are looked up quicker than the newest are asked for it one by one."""
RANKED = 2_000
"""Of more hits than these the newest are ranked."""


@dataclass(frozen=True)
class Filter:
    """What is asked for; all of it must hold."""

    kind: str | None = None
    architecture: str | None = None
    variant: str | None = None
    layout: str | None = None
    container: str | None = None
    application: str | None = None
    algorithm: str | None = None
    rank: int | None = None
    token: str | None = None
    """A token or a trigger word."""
    tag: str | None = None
    component: str | None = None
    dtype: str | None = None
    problem: str | None = None
    """The code of a problem; "any"."""
    min_size: int | None = None
    max_size: int | None = None
    since: str | None = None
    """UTC, of the newest file: 2026-01-31 or longer."""
    until: str | None = None
    under: Path | None = None
    fits: str | None = None
    """Adapters for a whole model, by reference or path."""
    missing: bool | None = False
    """Whether what is gone is listed: False no, True nothing else, None as well."""


_COLUMNS = ("kind", "architecture", "variant", "layout", "container", "application")
_TRAITS = {"algorithm": ("algorithm",), "rank": ("rank",), "token": ("token", "word"), "tag": ("tag",),
           "component": ("component",), "dtype": ("dtype",)}  # fmt: skip
_COMPARED = {"min_size": "size >= ?", "max_size": "size <= ?", "since": "modified >= ?", "until": "modified <= ?"}


def conditions(connection: sqlite3.Connection, wanted: Filter) -> tuple[list[str], list[Any]]:
    """The filter as conditions on `records`, and their parameters. UnknownName for what neither we nor a record knows."""
    _ensure_known(connection, wanted)
    asked = [row for row in (*_compared(wanted), *_traits(connection, wanted)) if row[1]]
    found, given = [condition for condition, _ in asked], [value for _, values in asked for value in values]
    if wanted.fits is not None:
        found.append("records.kind IN ('lora', 'embedding', 'hypernetwork')")
    if wanted.problem == "any":
        found.append(f"(records.refused IS NOT NULL OR {_has(('problem',), '')})")
    elif wanted.problem is not None:
        found.append(f"(records.refused = ? OR {_has(('problem',), 'AND value = ?')})")
        given += _asked(wanted.problem) * 2
    if wanted.missing is not None:
        found.append(f"records.missing IS {'NOT ' if wanted.missing else ''}NULL")
    if wanted.under is not None:
        condition, folder = within(place(wanted.under))
        found.append(condition)
        given += folder
    return found, given


def _ensure_known(connection: sqlite3.Connection, wanted: Filter) -> None:
    for column, every in _KNOWN.items():
        if not (name := _asked(getattr(wanted, column))) or name[0] in every():
            continue
        if connection.execute(f"SELECT 1 FROM records WHERE {column} = ? LIMIT 1", name).fetchone() is None:
            raise UnknownName(column, name[0], every())


_KNOWN: dict[str, Callable[[], Sequence[str]]] = {
    "architecture": lambda: architectures.NAMES,
    "layout": lambda: list(dict.fromkeys(layout.name for layout in layouts.every())),
}
"""What a record may be of; of another version it may be of more."""


def _compared(wanted: Filter) -> Iterator[tuple[str, list[Any]]]:
    """The conditions that take one value each; without a value where nothing is asked."""
    for name in _COLUMNS:
        values = _asked(getattr(wanted, name))
        if name == "architecture" and wanted.fits is not None:
            yield f"(records.architecture = ? OR {_ALSO})", values * 2
        else:
            yield f"records.{name} = ?", values
    for name, comparison in _COMPARED.items():
        yield f"records.{comparison}", _asked(getattr(wanted, name))


_ALSO = "records.id IN (SELECT record_id FROM traits WHERE trait = 'also' AND value = ?)"
"""That it fits an architecture as well as its own."""


def _traits(connection: sqlite3.Connection, wanted: Filter) -> Iterator[tuple[str, list[Any]]]:
    """The conditions on traits: of one that few have these are looked up, of others it is asked as records go by."""
    for name, traits in _TRAITS.items():
        if values := _asked(getattr(wanted, name)):
            few = f"SELECT record_id FROM traits WHERE trait IN ({_listed(traits)}) AND value = ?"
            (count,) = connection.execute(f"SELECT count(*) FROM ({few} LIMIT {FEW + 1})", values).fetchone()
            yield (f"records.id IN ({few})" if count <= FEW else _has(traits, "AND value = ?")), values


def _asked(value: Any) -> list[Any]:
    return [] if value is None else [clean(value) if isinstance(value, str) else value]


def _has(traits: Sequence[str], more: str) -> str:
    return f"EXISTS (SELECT 1 FROM traits WHERE record_id = records.id AND trait IN ({_listed(traits)}) {more})"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def quoted(words: str) -> str:
    """What was typed as an FTS5 query for records that have all of its words, or words that begin so."""
    parts = (part.replace('"', '""') for part in clean(words).replace("\0", " ").split())
    return " ".join(f'"{part}"*' for part in parts)


def list_(
    wanted: Filter | None = None, *, db: Path | str | None = None, sort: str = "added", limit: int | None = None
) -> list[Record]:
    """The records that `wanted` asks for, in the order of `sort` (see SORTS), `limit` at most."""
    return _records(listed(wanted or Filter(), db=db, sort=sort, limit=limit))


def search(
    words: str,
    wanted: Filter | None = None,
    *,
    db: Path | str | None = None,
    fts: bool = False,
    limit: int | None = None,
) -> list[Record]:
    """The records that have all of `words`, the best first: in name, trigger words, tags, notes, description, training tags.

    With `fts` `words` are an expression of SQLite's FTS5; UsageError where they are none.
    """
    return _records(hits(words, wanted or Filter(), db=db, fts=fts, limit=limit))


def _records(texts: Iterator[str]) -> list[Record]:
    from adapterhub.documents import Record

    return [Record.model_validate_json(text) for text in texts]


def listed(
    wanted: Filter, *, db: Path | str | None = None, sort: str = "added", limit: int | None = None
) -> Iterator[str]:
    """The records of `list_`, each as its JSON."""
    if sort not in SORTS:
        raise UsageError(f"unknown order {sort!r}", mend=f"Known: {', '.join(SORTS)}.")
    wanted, shown = _fitting(wanted, db)
    with reading(db) as connection:
        where, given = conditions(connection, wanted)
        yield from shown(_rows(connection, "records", where, given, SORTS[sort], limit))


def hits(
    words: str, wanted: Filter, *, db: Path | str | None = None, fts: bool = False, limit: int | None = None
) -> Iterator[str]:
    """The records of `search`, each as its JSON."""
    query = clean(words) if fts else quoted(words)
    if not query:
        raise UsageError("nothing to search for", mend="Give a word, or adapterhub list for everything.")
    newest = f"""(SELECT rowid AS hit, bm25(texts_fts, {", ".join(map(str, WEIGHTS))}) AS score
        FROM texts_fts WHERE texts_fts MATCH ? ORDER BY rowid DESC LIMIT {RANKED})"""
    wanted, shown = _fitting(wanted, db)
    with reading(db) as connection:
        where, given = conditions(connection, wanted)
        source, values = f"{newest} JOIN records ON id = hit", [query, *given]
        try:
            yield from shown(_rows(connection, source, where, values, "score, id DESC", limit))
        except sqlite3.OperationalError as error:
            if not fts or error.sqlite_errorname != "SQLITE_ERROR":
                raise
            raise UsageError(f"no FTS5 expression: {error}", mend="Without --fts it is taken as words.") from None


def _fitting(wanted: Filter, db: Path | str | None) -> tuple[Filter, Callable[[Iterator[str]], Iterator[str]]]:
    """The filter with the architecture of the model that is named, and how the records for it are shown."""
    if wanted.fits is None:
        return wanted, iter
    from adapterhub.registry.fitting import architecture_of, with_readers

    return replace(wanted, architecture=architecture_of(wanted.fits, db=db)), with_readers


def _rows(
    connection: sqlite3.Connection, source: str, where: list[str], given: list[Any], order: str, limit: int | None
) -> Iterator[str]:
    return map(as_json, rows_of(connection, source, where, given, order, limit))


def rows_of(
    connection: sqlite3.Connection, source: str, where: list[str], given: list[Any], order: str, limit: int | None
) -> sqlite3.Cursor:
    """Records as `as_json` takes them, from `source` under all of the conditions."""
    columns = ", ".join(f"records.{name}" for name in _HEAD)
    asked = f" WHERE {' AND '.join(where)}" if where else ""
    return connection.execute(
        f"SELECT {columns}, {_values('token', 'word')} AS words, {_values('tag')} AS tags, details "
        f"FROM {source}{asked} ORDER BY {order} LIMIT ?", [*given, -1 if limit is None else limit],
    )  # fmt: skip


def _values(*traits: str) -> str:
    names = ", ".join(f"'{trait}'" for trait in traits)
    return f"(SELECT json_group_array(DISTINCT value) FROM traits WHERE record_id = records.id AND trait IN ({names}))"


def as_json(row: sqlite3.Row) -> str:
    """A row of `rows_of` as the JSON of a Record."""
    if not (isinstance(row["name"], str) and isinstance(row["size"], int) and isinstance(row["details"], str)):
        raise TypeError("a row of another table")  # a damaged database: see database.reading
    head = dict(zip(_HEAD, row, strict=False))
    head["path"] = legible(row["path"])
    head["hashed"] = bool(row["hashed"])
    listed = f'{json.dumps(head)[:-1]}, "words": {_ascii(row["words"])}, "tags": {_ascii(row["tags"])}'
    details = row["details"]
    return f"{listed}}}" if details == "{}" else f"{listed}, {details[1:]}"


def _ascii(array: str) -> str:
    return array if array.isascii() else json.dumps(json.loads(array))


def one_row(connection: sqlite3.Connection, record: int) -> str:
    """The record with that number, as its JSON."""
    return next(iter(_rows(connection, "records", ["records.id = ?"], [record], "id", 1)))
