"""backup and restore: the registry as a file, whole, while others use it."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

import adapterhub
from adapterhub.errors import MachineFailure, OutputExists, RefusedInput, UsageError
from adapterhub.registry.database import unchanged, writing
from tests.registry.libraries import adapter, content, rows


@pytest.fixture
def db(tmp_path: Path) -> Path:
    for number in range(3):
        adapter(tmp_path / f"library/a{number}.safetensors", number)
    adapterhub.index(tmp_path / "library", db=tmp_path / "r.db", jobs=1)
    return tmp_path / "r.db"


def test_a_backup_has_everything_and_restoring_it_brings_everything_back(db, tmp_path):
    adapterhub.tag("a0", "before", db=db)
    done = adapterhub.backup(tmp_path / "b.db", db=db)
    assert (done.records, done.size) == (3, (tmp_path / "b.db").stat().st_size)
    before = content(db)
    assert content(tmp_path / "b.db") == before
    adapterhub.tag("a0", "after", db=db)
    adapterhub.remove("a1", db=db)
    restored = adapterhub.restore(tmp_path / "b.db", db=db)
    assert content(db) == before
    assert restored.replaced == f"{db}.before-restore"
    assert rows(Path(restored.replaced), "SELECT count(*) FROM records") == [(2,)]
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]
    assert rows(db, "PRAGMA journal_mode") == [("wal",)]
    assert [one.name for one in adapterhub.search("before", db=db)] == ["a0"]


def test_what_was_kept_once_is_not_replaced_and_an_empty_registry_is_not_kept(db, tmp_path):
    adapterhub.backup(tmp_path / "b.db", db=db)
    adapterhub.tag("a0", "after", db=db)
    assert [adapterhub.restore(tmp_path / "b.db", db=db).replaced for _ in range(2)] == [
        f"{db}.before-restore", f"{db}.before-restore-2"
    ]  # fmt: skip
    assert rows(tmp_path / "r.db.before-restore", "SELECT value FROM traits WHERE trait = 'tag'") == [("after",)]
    (tmp_path / "n.db").touch()
    assert adapterhub.restore(tmp_path / "b.db", db=tmp_path / "n.db").replaced is None


def test_a_registry_without_its_tables_is_put_aside(db, tmp_path, cli):
    adapterhub.backup(tmp_path / "b.db", db=db)
    rows(db, "DROP TABLE traits")
    assert cli("list", "--db", db).status == 3
    adapterhub.restore(tmp_path / "b.db", db=db)
    assert content(db) == content(tmp_path / "b.db")


def test_a_backup_replaces_nothing_without_force(db, tmp_path):
    (tmp_path / "b.db").write_bytes(b"mine")
    with pytest.raises(OutputExists):
        adapterhub.backup(tmp_path / "b.db", db=db)
    assert (tmp_path / "b.db").read_bytes() == b"mine"
    adapterhub.backup(tmp_path / "b.db", db=db, force=True)
    with pytest.raises(UsageError):
        adapterhub.backup(db, db=db, force=True)


def test_a_backup_does_not_go_over_a_database_that_somebody_uses(db, tmp_path):
    other = sqlite3.connect(tmp_path / "o.db")
    other.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1)")
    with pytest.raises(UsageError, match="in use"):
        adapterhub.backup(tmp_path / "o.db", db=db, force=True)
    assert other.execute("SELECT * FROM t").fetchall() == [(1,)]
    other.close()


def test_a_backup_is_of_one_moment_while_another_writes(db, tmp_path):
    """A record and its tag are written together: no backup has one without the other."""
    stop = threading.Event()

    def write() -> None:
        connection = sqlite3.connect(db, timeout=30, isolation_level=None)
        number = 100
        while not stop.is_set():
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(
                "INSERT INTO records (id, path, folder, name, kind, size, modified, added) "
                "VALUES (?, ?, '/x', 'n', 'lora', 1, '', '')", (number, f"/x/{number}"))  # fmt: skip
            connection.execute("INSERT INTO traits VALUES ('tag', 't', ?)", (number,))
            connection.execute("COMMIT")
            number += 1
        connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(10):
            path = tmp_path / f"b{number}.db"
            adapterhub.backup(path, db=db)
            assert rows(path, "SELECT count(*) FROM records WHERE id >= 100") == rows(
                path, "SELECT count(*) FROM traits WHERE value = 't'"
            )
    finally:
        stop.set()
        writer.join()
    assert rows(tmp_path / "b9.db", "SELECT count(*) FROM records WHERE id >= 100")[0][0] > 0  # type: ignore[operator]


def test_restore_waits_for_no_writer_and_changes_nothing_then(db, tmp_path, monkeypatch):
    adapterhub.backup(tmp_path / "b.db", db=db)
    adapterhub.tag("a0", "after", db=db)
    before = content(db)
    monkeypatch.setattr("adapterhub.registry.backup._PATIENCE", 100)
    writer = sqlite3.connect(db, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(MachineFailure, match="another process"):
        adapterhub.restore(tmp_path / "b.db", db=db)
    writer.execute("ROLLBACK")
    writer.close()
    assert content(db) == before


def test_who_has_the_registry_open_sees_what_was_restored(db, tmp_path):
    adapterhub.backup(tmp_path / "b.db", db=db)
    adapterhub.remove("a1", db=db)
    reader = sqlite3.connect(db)
    assert reader.execute("SELECT count(*) FROM records").fetchone() == (2,)
    adapterhub.restore(tmp_path / "b.db", db=db)
    assert reader.execute("SELECT count(*) FROM records").fetchone() == (3,)
    reader.close()


def test_a_backup_is_restored_where_there_is_no_registry(db, tmp_path):
    adapterhub.backup(tmp_path / "b.db", db=db)
    done = adapterhub.restore(tmp_path / "b.db", db=tmp_path / "new" / "n.db")
    assert done.replaced is None
    assert content(tmp_path / "new" / "n.db") == content(db)


@pytest.mark.parametrize("damage", ["cut", "text", "empty header"])
def test_a_registry_that_is_damaged_is_put_aside_as_it_is(db, tmp_path, damage):
    adapterhub.backup(tmp_path / "b.db", db=db)
    whole = db.read_bytes()
    broken = {"cut": whole[:20_000], "text": b"no database at all" * 100, "empty header": bytes(4096) + whole[4096:]}[
        damage
    ]
    db.write_bytes(broken)
    adapterhub.restore(tmp_path / "b.db", db=db)
    assert content(db) == content(tmp_path / "b.db")
    assert (tmp_path / "r.db.before-restore").read_bytes() == broken


@pytest.mark.parametrize("what", ["none", "cut", "another", "later", "empty", "the registry itself"])
def test_what_is_no_sound_backup_is_refused_and_the_registry_stays(db, tmp_path, cli, what):
    backup = tmp_path / "b.db"
    if what != "none":
        adapterhub.backup(backup, db=db)
    with sqlite3.connect(tmp_path / "b.db" if what in ("another", "later") else ":memory:") as connection:
        connection.execute("PRAGMA application_id = 7" if what == "another" else "PRAGMA user_version = 99")
    if what == "empty":
        backup.write_bytes(b"")
    if what == "cut":
        backup.write_bytes(backup.read_bytes()[:30_000])
    before = content(db)
    given = db if what == "the registry itself" else backup
    assert cli("restore", given, "--db", db).status == (2 if what in ("none", "the registry itself") else 3)
    assert content(db) == before
    assert not (tmp_path / "r.db.before-restore").exists()


def test_a_damaged_registry_is_not_backed_up_as_if_it_were_sound(db, tmp_path):
    rows(db, "PRAGMA wal_checkpoint(TRUNCATE)")
    db.write_bytes(db.read_bytes()[:20_000])
    with pytest.raises(RefusedInput):
        adapterhub.backup(tmp_path / "b.db", db=db)
    assert not (tmp_path / "b.db").exists()


def test_what_a_killed_writer_had_begun_is_undone_before_a_registry_is_read(tmp_path):
    with writing(tmp_path / "r.db"):
        pass
    connection = sqlite3.connect(tmp_path / "r.db", isolation_level=None)
    assert connection.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("CREATE TABLE begun (a)")
    connection.executemany("INSERT INTO begun VALUES (?)", [(bytes(4000),)] * 200)
    (tmp_path / "left").mkdir()
    for name in ("r.db", "r.db-journal"):
        shutil.copy(tmp_path / name, tmp_path / "left" / name)
    connection.close()
    with unchanged(tmp_path / "left/r.db") as read:
        assert read.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert read.execute("SELECT 1 FROM sqlite_schema WHERE name = 'begun'").fetchone() is None
