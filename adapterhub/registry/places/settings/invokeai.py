"""InvokeAI: `invokeai.yaml` says where its models are, its database what they are.

Source: InvokeAI `app/services/config/config_default.py`, `app/services/model_records/model_records_sql.py`,
`shared/sqlite_migrator/migrations/migration_3.py` (a table whose column `config` is JSON; now called `models`),
`migration_22.py` (paths are relative to the folder of models, or absolute for what InvokeAI uses where it lies).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TypeGuard

from adapterhub.adapter import Kind
from adapterhub.files import strict_json
from adapterhub.files.beside import leaves
from adapterhub.registry.places.found import Entry, Keeps, Place, Settings, Told, Trouble
from adapterhub.registry.places.settings import reading

FILE, DATABASE = "invokeai.yaml", "invokeai.db"
TABLES = ("models", "model_config")
"""Now, and before InvokeAI 4."""
KINDS = {"lora": Kind.LORA, "embedding": Kind.EMBEDDING, "main": Kind.CHECKPOINT}
"""Its kinds that adapterhub knows; the others (VAEs, ControlNets, text encoders …) are left alone."""
TOLD = ("name", "type", "base", "description", "trigger_phrases", "hash", "source")
"""What is taken from a record."""
ROWS, CHARACTERS = 100_000, 1_000_000
"""Records of a database, and characters of one (which may hold the answer of Civitai), that are read."""
IN_ALL, FIELD = 128_000_000, 10_000
"""Characters of all records that are read, and of one field that is kept."""
_WRITE_AHEAD = b"\2"
"""How byte 18 of a database says that it has a log of its own (sqlite.org/fileformat.html)."""
_STEPS, _CALLS = 100_000, 200
"""A statement may take so many steps of SQLite's machine: seconds, where a view could make it run for ever."""


def settings(root: Path, keeps: Keeps) -> Settings:
    """The folder of models, what the database tells of each model, and the models that lie elsewhere."""
    said = Settings()
    config = reading.yaml(root / FILE, said)
    models = reading.expanded(_setting(config, "models_dir") or "models", root) or root
    folder = reading.expanded(_setting(config, "db_dir") or "databases", root) or root
    said.places.append(Place(models, None))
    for record in _records(folder / DATABASE, said):
        _take_in(record, models, said)
    return said


def _setting(config: Mapping[str, Any], name: str) -> str | None:
    """A setting, on the first level, or in a section as InvokeAI 3 wrote it (`InvokeAI: Paths: …`)."""
    levels: list[Any] = [config]
    for _ in range(3):
        for level in levels:
            if isinstance(value := level.get(name), str):
                return value
        levels = [value for level in levels for value in level.values() if isinstance(value, dict)]
    return None


def _take_in(record: Mapping[str, Any], models: Path, said: Settings) -> None:
    named, kind = record.get("path"), KINDS.get(str(record.get("type")))
    if not isinstance(named, str) or (leaves(named) and not os.path.isabs(named)) or "\0" in named:
        said.troubles.append(Trouble(models, f"InvokeAI names {ascii(named)[:200]}, which leads out of its models"))
        return
    path = models / named
    if path == models:
        return
    if kind is None:
        said.others.add(str(path))
        return
    said.entries[str(path)] = Entry(kind, _told(record))
    if os.path.isabs(named) and not path.is_relative_to(models):
        said.places.append(Place(path, kind))


def _told(record: Mapping[str, Any]) -> Told:
    """The texts, and lists of texts, of a record."""
    values = {name: record.get(name) for name in TOLD}
    texts: dict[str, str | list[str]] = {name: value for name, value in values.items() if _is_text(value)}
    lists = {name: list(filter(_is_text, value)) for name, value in values.items() if isinstance(value, list)}
    return texts | {name: value for name, value in lists.items() if 0 < sum(map(len, value)) <= FIELD}


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= FIELD


def _records(path: Path, said: Settings) -> Iterator[Mapping[str, Any]]:
    """The records of the database at `path`, opened to be read only."""
    if not os.path.isfile(path):
        return
    broken = 0
    try:
        for text in _rows(path):
            if record := _record(text):
                yield record
            else:
                broken += 1
    except (sqlite3.Error, ValueError, OSError) as error:
        said.troubles.append(Trouble(path, f"the database cannot be read: {str(error)[:200]}"))
    if broken:
        said.troubles.append(Trouble(path, f"{broken} records of the database are no JSON objects"))


def _record(text: str | None) -> Mapping[str, Any] | None:
    try:
        record = strict_json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _rows(path: Path) -> Iterator[str | None]:
    left = IN_ALL
    with closing(sqlite3.connect(_address(path), uri=True, timeout=1)) as connection:
        for (text,) in _selected(connection):
            if (left := left - len(text or "")) < 0:
                raise ValueError(f"its records have more than {IN_ALL} characters")
            yield text


def _selected(connection: sqlite3.Connection) -> Iterable[tuple[str | None]]:
    """The texts of all records, None for what is no text or too long."""
    calls = iter(range(_CALLS))
    connection.set_progress_handler(lambda: next(calls, None) is None, _STEPS)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 4 * CHARACTERS)
    connection.text_factory = lambda text: text.decode("utf-8", "replace")
    if (table := _table(connection)) is None:
        return []
    text = f"CASE WHEN typeof(config) = 'text' AND length(config) <= {CHARACTERS} THEN config END"
    return connection.execute(f"SELECT {text} FROM {table} LIMIT {ROWS}")


def _table(connection: sqlite3.Connection) -> str | None:
    found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return next((name for name in TABLES if (name,) in found), None)


def _address(path: Path) -> str:
    """The address by which SQLite writes nothing beside a database: with a log of its own it makes one even to read, unless
    told that nobody writes, which is so where there is none.
    """
    with open(path, "rb") as stream:
        logged = stream.read(20)[18:19] == _WRITE_AHEAD
    alone = logged and not os.path.exists(f"{path}-wal")
    return f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if alone else ''}"
