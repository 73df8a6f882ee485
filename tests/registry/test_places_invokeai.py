"""InvokeAI, whose database says what its files are; and databases that say anything."""

import json
import sqlite3
import time
from contextlib import closing

import pytest

from adapterhub.adapter import Kind
from adapterhub.registry.places import recognised, walk
from tests.registry.trees import found, names, plant, troubles, write

TABLE = """CREATE TABLE {table} (
    id TEXT NOT NULL PRIMARY KEY,
    base TEXT GENERATED ALWAYS as (json_extract(config, '$.base')) VIRTUAL NOT NULL,
    name TEXT GENERATED ALWAYS as (json_extract(config, '$.name')) VIRTUAL NOT NULL,
    config TEXT NOT NULL)"""


def record(path, kind="lora", **fields):
    return {"path": path, "type": kind, "name": "a name", "base": "sd-1"} | fields


def database(root, *configs, table="models", at="databases/invokeai.db", wal=False):
    """A database of InvokeAI with these records, each JSON or a value as it is."""
    path = plant(root, at, "models/") / at
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}")
        connection.execute(TABLE.format(table=table))
        for number, config in enumerate(configs):
            text = json.dumps(config) if isinstance(config, dict) else config
            connection.execute(f"INSERT INTO {table} (id, config) VALUES (?, ?)", (str(number), text))
        connection.commit()
    return root


def listing(folder):
    return sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir())


@pytest.mark.parametrize(("table", "wal"), [("models", False), ("models", True), ("model_config", False)])
def test_the_database_tells_what_each_file_is_and_is_left_as_it_was(tmp_path, table, wal):
    database(
        tmp_path,
        record("k1/a.safetensors", trigger_phrases=["cat", "dog"], description="soft", hash="blake3:12", source="a/b"),
        record("k2", "embedding", base="sdxl"),
        record("k3/main.safetensors", "main", description=None, trigger_phrases=[]),
        record("k4/vae.safetensors", "vae"),
        record("k5", "t5_encoder"),
        record("gone.safetensors"),
        table=table, wal=wal,
    )  # fmt: skip
    plant(tmp_path / "models", "k1/a.safetensors", "k2/learned_embeds.bin", "k3/main.safetensors", "k4/vae.safetensors",
          "k5/a.safetensors", "loose.safetensors")  # fmt: skip
    before = listing(tmp_path / "databases")
    things = {thing.path.name: (thing.application, thing.hint, thing.told) for thing in found(tmp_path)}
    assert things == {
        "a.safetensors": ("invokeai", Kind.LORA, {
            "name": "a name", "type": "lora", "base": "sd-1", "trigger_phrases": ["cat", "dog"], "description": "soft",
            "hash": "blake3:12", "source": "a/b",
        }),
        "learned_embeds.bin": ("invokeai", Kind.EMBEDDING, {"name": "a name", "type": "embedding", "base": "sdxl"}),
        "main.safetensors": ("invokeai", Kind.CHECKPOINT, {"name": "a name", "type": "main", "base": "sd-1"}),
        "loose.safetensors": ("invokeai", None, {}),
    }  # fmt: skip
    assert listing(tmp_path / "databases") == before


def test_a_database_that_is_open_is_read_with_what_is_in_its_log(tmp_path):
    database(tmp_path, wal=True)
    plant(tmp_path / "models", "a.pt")
    with closing(sqlite3.connect(tmp_path / "databases/invokeai.db")) as connection:
        connection.execute("INSERT INTO models (id, config) VALUES ('x', ?)", (json.dumps(record("a.pt")),))
        connection.commit()
        assert [thing.hint for thing in found(tmp_path)] == [Kind.LORA]


@pytest.mark.parametrize("yaml", [
    "schema_version: 4.0.2\nmodels_dir: ../m\ndb_dir: d\n", "InvokeAI:\n  Paths:\n    models_dir: ../m\n    db_dir: d\n",
])  # fmt: skip
def test_its_configuration_says_where_both_are(tmp_path, yaml):
    root = database(tmp_path / "root", record("a.pt"), at="d/invokeai.db")
    plant(tmp_path / "m", "a.pt")
    write(root / "invokeai.yaml", yaml)
    assert [(thing.path.resolve(), thing.hint) for thing in found(root)] == [(tmp_path / "m/a.pt", Kind.LORA)]


def test_a_model_that_is_used_where_it_lies_is_found_there(tmp_path):
    plant(tmp_path, "mine/a.pt", "mine/b.pt", "mine/folder/c.pt", "root/models/d.pt")
    absolute = [str(tmp_path / name) for name in ("mine/a.pt", "mine/folder", "root/models/d.pt")]
    database(tmp_path / "root", *map(record, absolute))
    assert [(str(thing.path.relative_to(tmp_path)), thing.hint) for thing in found(tmp_path / "root")] == [
        ("root/models/d.pt", Kind.LORA), ("mine/a.pt", Kind.LORA), ("mine/folder/c.pt", Kind.LORA),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "path", ["../secret.pt", "a/../../secret.pt", "~/secret.pt", "", 5, None, ["a"], "a\0b", "/a\0b", "..\\x"]
)
def test_a_path_that_leads_out_is_told_and_not_followed(tmp_path, path):
    plant(tmp_path, "secret.pt")
    database(tmp_path / "root", record(path))
    things = list(walk([tmp_path / "root"]))
    assert len(things) == 1
    assert "which leads out of its models" in things[0].reason


@pytest.mark.parametrize(
    "config", ["{", "[]", "5", "", "null", b"\xff\xfe", b"{}", '{"path": "a", "path": "b"}', "[" * 100_000]
)
def test_a_record_that_is_none_is_told(tmp_path, config):
    plant(tmp_path / "models", "a.pt")
    with closing(sqlite3.connect(plant(tmp_path, "databases/") / "databases/invokeai.db")) as connection:
        connection.execute("CREATE TABLE models (config)")
        connection.executemany("INSERT INTO models VALUES (?)", [(config,), (json.dumps(record("a.pt")),)])
        connection.commit()
    [told] = recognised(tmp_path).troubles
    assert told.reason == "1 records of the database are no JSON objects"
    assert [thing.hint for thing in walk([tmp_path]) if thing != told] == [Kind.LORA]


def test_fields_of_a_wrong_type_or_length_are_left_out(tmp_path):
    fields = {
        "name": 5,
        "base": "",
        "description": "x" * 10_001,
        "hash": {"a": 1},
        "source": [],
        "trigger_phrases": ["a", 5, ""],
    }
    database(tmp_path, record("a.pt", **fields))
    plant(tmp_path / "models", "a.pt")
    assert [thing.told for thing in found(tmp_path)] == [{"type": "lora", "trigger_phrases": ["a"]}]


@pytest.mark.parametrize("kind", [5, None, ["lora"], "LoRA", "../lora"])
def test_what_is_of_no_known_kind_is_left_alone(tmp_path, kind):
    database(tmp_path, record("a.pt", kind))
    plant(tmp_path / "models", "a.pt", "b.pt")
    assert names(found(tmp_path), tmp_path / "models") == ["b.pt"]


class TestDatabasesThatAreNone:
    @pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + b"\xff" * 4_096])
    def test_what_can_be_read_of_them_is_nothing(self, tmp_path, content):
        plant(tmp_path, "databases/invokeai.db", "models/a.pt").joinpath("databases/invokeai.db").write_bytes(content)
        assert len(troubles(tmp_path)) == (content != b"")
        assert [thing.path.name for thing in walk([tmp_path]) if hasattr(thing, "files")] == ["a.pt"]

    @pytest.mark.parametrize("schema", [
        "CREATE TABLE other (x)", "CREATE TABLE models (id)",
        "CREATE VIEW models AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS config FROM n",
        "CREATE TABLE models (id, config TEXT AS (hex(zeroblob(9000000)))); INSERT INTO models VALUES (1)",
    ])  # fmt: skip
    def test_a_schema_of_another_kind_neither_hangs_nor_fails(self, tmp_path, schema):
        plant(tmp_path, "databases/", "models/a.pt")
        with closing(sqlite3.connect(tmp_path / "databases/invokeai.db")) as connection:
            connection.executescript(schema)
        before = time.monotonic()
        assert len(found(tmp_path / "models")) == 1
        assert len(recognised(tmp_path).troubles) <= 1
        assert time.monotonic() - before < 5

    def test_one_that_is_locked_is_told(self, tmp_path):
        database(tmp_path, record("a.pt"))
        with closing(sqlite3.connect(tmp_path / "databases/invokeai.db", isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            [told] = recognised(tmp_path).troubles
        assert told.reason == "the database cannot be read: database is locked"

    def test_a_folder_of_its_name_is_none(self, tmp_path):
        plant(tmp_path, "databases/invokeai.db/", "models/a.pt")
        assert len(found(tmp_path)) == 1

    def test_too_many_characters_end_it(self, tmp_path, monkeypatch):
        monkeypatch.setattr("adapterhub.registry.places.settings.invokeai.IN_ALL", 1_000)
        database(tmp_path, *(record(f"{number}.pt") for number in range(50)))
        [told] = recognised(tmp_path).troubles
        assert "more than 1000 characters" in told.reason
