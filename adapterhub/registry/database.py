"""The one file of the registry: where it lies, how it is opened, and what is said when that fails."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from adapterhub.errors import MachineFailure, RefusedInput, UsageError

APPLICATION = 0x41444842
"""SQLite's `application_id` of a registry: "ADHB"."""
VERSION = 2
"""How many migrations there are; SQLite's `user_version` says how many a database has had."""
_PATIENCE = 60.0
"""Seconds to wait for another process that writes."""


def default_path() -> Path:
    """`$ADAPTERHUB_DB`, or `registry.db` in the user's data folder."""
    if given := os.environ.get("ADAPTERHUB_DB"):
        return Path(given)
    from platformdirs import user_data_path

    return user_data_path("adapterhub", appauthor=False) / "registry.db"


@contextmanager
def reading(db: Path | str | None = None) -> Iterator[sqlite3.Connection]:
    """The registry, to be asked. UsageError where there is none, RefusedInput where it is none."""
    path = default_path() if db is None else Path(db)
    _refuse_folder(path)
    if not path.exists():
        raise UsageError(f"there is no registry at {path}",
                         mend="adapterhub index FOLDER makes one; --db or $ADAPTERHUB_DB names another.")  # fmt: skip
    with explained(path):
        connection = _opened_to_read(path)
        try:
            if _version(connection, path) < VERSION:
                connection.close()
                connection = _migrated(path)
            with _blamed_if_damaged(connection, path):
                yield connection
        finally:
            connection.close()


@contextmanager
def unchanged(path: Path) -> Iterator[sqlite3.Connection]:
    """The registry in that file, to be asked, with the tables that it has: nothing is migrated."""
    _refuse_folder(path)
    if not path.exists():
        raise UsageError(f"there is no registry at {path}", mend="Give a file that adapterhub backup wrote.")
    with explained(path):
        connection = _opened_to_read(path)
        try:
            _version(connection, path)
            yield connection
        finally:
            connection.close()


@contextmanager
def writing(db: Path | str | None = None) -> Iterator[sqlite3.Connection]:
    """The registry, to be changed; made where there is none. Changes belong into `transaction`."""
    path = default_path() if db is None else Path(db)
    _refuse_folder(path)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = _migrated(path)
        try:
            with _blamed_if_damaged(connection, path):
                yield connection
        finally:
            connection.close()


@contextmanager
def blank() -> Iterator[sqlite3.Connection]:
    """A registry in memory that knows nothing yet."""
    connection = _connected("file::memory:")
    try:
        _migrate(connection)
        yield connection
    finally:
        connection.close()


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All of the changes inside, or none."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        if connection.in_transaction:  # a full disk has rolled it back already
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def exists(db: Path | str | None = None) -> bool:
    """Whether there is a registry."""
    return (default_path() if db is None else Path(db)).exists()


def _refuse_folder(path: Path) -> None:
    if path.is_dir():
        raise UsageError(
            f"{path} is a folder, and a registry is a file", mend=f"Give the file, as {path / 'registry.db'}."
        )


def place(path: Path | str) -> Path:
    """The path as the registry has it: absolute, without `..`, links as they are."""
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 (resolve follows links, absolute keeps `..`)


def stored(path: Path | str) -> str | bytes:
    """A path as the database holds it: text, or bytes where it is no UTF-8."""
    try:
        return os.fspath(path).encode() and os.fspath(path)
    except UnicodeEncodeError:
        return os.fsencode(path)


def within(folder: Path) -> tuple[str, list[str | bytes]]:
    """The condition that `records.path` is the folder or lies below it, and its parameters. Text and bytes are ranges of their own."""
    root = str(folder).rstrip("/")
    below = [f"{root}/", f"{root}0"]  # the character after the slash
    between = "records.path >= ? AND records.path < ?"
    given = [stored(folder), *map(stored, below), *map(os.fsencode, below)]
    return f"(records.path = ? OR {between} OR {between})", given


def restored(path: str | bytes) -> Path:
    """The path that `stored` gave."""
    return Path(os.fsdecode(path))


def legible(path: str | bytes) -> str:
    """A path that the database holds as text for people: bytes that are no UTF-8 are escapes."""
    return clean(restored(path))


def clean(text: object) -> str:
    """Text that SQLite takes: what is no Unicode is escaped."""
    return str(text).encode("utf-8", "backslashreplace").decode()


def _migrated(path: Path) -> sqlite3.Connection:
    """The database with all tables of today."""
    connection = _connected(f"file:{quote(os.fsencode(path))}")
    try:
        version = _version(connection, path)
        if version < VERSION:
            _migrate(connection)
        return connection
    except BaseException:
        connection.close()
        raise


def _migrate(connection: sqlite3.Connection) -> None:
    with _without_numpy():
        from sqlite_utils import Database

    from adapterhub.registry.migrations import MIGRATIONS

    connection.execute("PRAGMA journal_mode = WAL")
    with transaction(connection):
        MIGRATIONS.apply(Database(connection, execute_plugins=False))
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {VERSION}")


@contextmanager
def _without_numpy() -> Iterator[None]:
    """sqlite-utils imports numpy where that is installed, for types of it that do not come to it here; numpy starts threads, and a
    process that has some cannot be forked to read files.
    """
    if "numpy" in sys.modules:
        yield
        return
    sys.modules["numpy"] = None  # type: ignore[assignment] # the import system's word for what is not there
    try:
        yield
    finally:
        del sys.modules["numpy"]


def _connected(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=_PATIENCE, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.row_factory = sqlite3.Row
    return connection


def _opened_to_read(path: Path) -> sqlite3.Connection:
    """Read-only; where not even the shared memory beside it may be written, as it lies there. What a writer had begun that was
    killed is undone first, which SQLite leaves to whoever may write.
    """
    uri = f"file:{quote(os.fsencode(path))}"
    try:
        return _asked(f"{uri}?mode=ro")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname in ("SQLITE_READONLY_ROLLBACK", "SQLITE_READONLY_RECOVERY"):
            _asked(f"{uri}?mode=rw").close()
            return _asked(f"{uri}?mode=ro")
        if error.sqlite_errorname not in ("SQLITE_CANTOPEN", "SQLITE_READONLY_CANTINIT", "SQLITE_READONLY_DIRECTORY"):
            raise
        return _connected(f"{uri}?mode=ro&immutable=1")


def _asked(uri: str) -> sqlite3.Connection:
    """A connection that has read something, so that what keeps it from that has shown."""
    connection = _connected(uri)
    try:
        connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        raise
    return connection


@contextmanager
def _blamed_if_damaged(connection: sqlite3.Connection, path: Path) -> Iterator[None]:
    """SQLite does not notice every page that is another's; what such values lead to is blamed on them, if they are the reason."""
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        told = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if told == "ok":
            raise
        kind, what, mend = _MENDED["SQLITE_CORRUPT"]
        raise kind(f"the registry {path} {what} ({told})", mend=mend) from error


def _version(connection: sqlite3.Connection, path: Path) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    application: int = connection.execute("PRAGMA application_id").fetchone()[0]
    empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    if application != APPLICATION and not empty:
        raise RefusedInput(f"{path} is a database of something else", mend="Give another file with --db.")
    if version > VERSION:
        raise RefusedInput(f"{path} was made by a later adapterhub: its tables are version {version}, known are {VERSION}",
                           mend="Upgrade adapterhub, or index into another file with --db.")  # fmt: skip
    return version


_MENDED = {
    "SQLITE_NOTADB": (RefusedInput, "is no database", "Give another file with --db."),
    "SQLITE_CORRUPT": (RefusedInput, "is damaged", "adapterhub restore takes a backup; adapterhub doctor says more."),
    "SQLITE_ERROR": (RefusedInput, "has not the tables that it should have", "adapterhub doctor says more."),
    "SQLITE_FULL": (MachineFailure, "cannot grow: the disk is full", "Make room; nothing was lost."),
    "SQLITE_READONLY": (MachineFailure, "cannot be written: it is read-only", "Allow it, or give another file with --db."),
    "SQLITE_CANTOPEN": (MachineFailure, "cannot be opened", "Look at its permissions and its folder's."),
    "SQLITE_PERM": (MachineFailure, "cannot be opened", "Look at its permissions."),
    "SQLITE_BUSY": (MachineFailure, "is held by another process that writes", "Try again when that is done."),
    "SQLITE_LOCKED": (MachineFailure, "is held by another process that writes", "Try again when that is done."),
    "SQLITE_IOERR": (MachineFailure, "cannot be read or written: the disk failed", "Look at the disk."),
}  # fmt: skip


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """What SQLite and the system refuse inside, as errors of ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        name = getattr(error, "sqlite_errorname", None) or ""
        known = next((row for start, row in _MENDED.items() if name.startswith(start)), None)
        if known is None or (name == "SQLITE_ERROR" and "no such" not in str(error)):
            raise
        kind, what, mend = known
        raise kind(f"the registry {path} {what} ({error})", mend=mend) from error
    except PermissionError as error:
        if error.filename is None or Path(os.fsdecode(error.filename)) not in (path, *path.parents):
            raise
        raise MachineFailure(f"the registry {path} cannot be opened: {error.strerror}",
                             mend="Give another file with --db.") from error  # fmt: skip
