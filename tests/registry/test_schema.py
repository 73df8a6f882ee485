"""The tables: what a reader may rely on, and every earlier version brought up to date."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

import adapterhub
from adapterhub.errors import RefusedInput
from adapterhub.registry.database import APPLICATION, VERSION, writing
from adapterhub.registry.migrations import MIGRATIONS
from tests.registry.libraries import adapter, embedding, rows

STORED = Path(__file__).with_name("stored")


def test_the_version_is_how_many_steps_there_are():
    assert len(MIGRATIONS._migrations) == VERSION


def test_every_earlier_version_is_stored():
    assert [path.stem for path in sorted(STORED.glob("*.db"))] == [
        f"version-{number}" for number in range(1, VERSION + 1)
    ]


@pytest.mark.parametrize("stored", sorted(STORED.glob("*.db")), ids=lambda path: path.stem)
def test_a_stored_database_is_brought_up_to_date_and_loses_nothing(stored, tmp_path):
    """Two adapters, an embedding and a refused file; one was tagged, noted and rated, one is a conversion of the other."""
    db = tmp_path / "r.db"
    shutil.copyfile(stored, db)
    told = adapterhub.show("style", db=db)
    assert rows(db, "PRAGMA user_version") == [(VERSION,)]
    assert (told.tags, told.facts["notes"][0].value, told.facts["rating"][0].value) == (["mine"], "kept", 4)
    assert (told.kind, told.layout, told.rank, told.hashed) == ("lora", "kohya", 4, True)
    assert sorted(one.name for one in adapterhub.list(db=db)) == ["broken", "converted", "style", "word"]
    assert [one.name for one in adapterhub.search("kept", db=db)] == ["style"]
    (step,) = adapterhub.lineage("converted", db=db).steps
    assert (step.command, step.by) == ("convert", "sha256")
    assert [group.how for group in adapterhub.duplicates(db=db).groups] == ["adapter"]
    adapterhub.tag("style", "new", db=db)
    assert rows(db, "PRAGMA integrity_check") == [("ok",)]
    assert rows(db, "PRAGMA foreign_key_check") == []


def test_a_database_says_what_it_is(tmp_path):
    adapter(tmp_path / "a.safetensors")
    adapterhub.index(tmp_path, db=tmp_path / "r.db")
    assert rows(tmp_path / "r.db", "PRAGMA application_id") == [(APPLICATION,)]
    assert rows(tmp_path / "r.db", "PRAGMA journal_mode") == [("wal",)]


def test_a_later_version_and_another_database_are_refused_and_left_as_they_are(tmp_path):
    with writing(tmp_path / "later.db") as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE mine (x)")
    for name, message in (("later.db", "later adapterhub"), ("other.db", "something else")):
        with pytest.raises(RefusedInput, match=message):
            adapterhub.list(db=tmp_path / name)
        with pytest.raises(RefusedInput, match=message):
            adapterhub.index(tmp_path, db=tmp_path / name)
    assert rows(tmp_path / "other.db", "SELECT name FROM sqlite_schema") == [("mine",)]


def test_views_are_for_people(tmp_path):
    """What datasette shows: no join needed to see what there is."""
    style = adapter(tmp_path / "style.safetensors", 1)
    shutil.copyfile(style, tmp_path / "copy.safetensors")
    adapterhub.convert(style, tmp_path / "out.safetensors", to="diffusers")
    embedding(tmp_path / "word.safetensors")
    db = tmp_path / "r.db"
    adapterhub.index(tmp_path, db=db)
    adapterhub.tag("style", "a", "b", db=db)
    assert rows(db, "SELECT name, kind, tags, words FROM adapters WHERE name IN ('style', 'word') ORDER BY name") == [
        ("style", "lora", "a, b", None), ("word", "embedding", None, "word")]  # fmt: skip
    assert rows(db, "SELECT copies FROM same_file") == [(2,)]
    assert rows(db, "SELECT files FROM same_adapter") == [(3,)]
    assert rows(db, "SELECT child, command, parent FROM lineage") == [("out", "convert", "style.safetensors")]


def test_what_belongs_to_a_record_goes_with_it(tmp_path):
    adapter(tmp_path / "a.safetensors", ss_output_name="x")
    db = tmp_path / "r.db"
    adapterhub.index(tmp_path, db=db)
    with writing(db) as connection:
        connection.execute("DELETE FROM records")
    for table in ("files", "hashes", "facts", "traits", "texts", "metadata"):
        assert rows(db, f"SELECT count(*) FROM {table}") == [(0,)]
    assert rows(db, "SELECT count(*) FROM texts_fts WHERE texts_fts MATCH 'a'") == [(0,)]
