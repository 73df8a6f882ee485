"""doctor: is the registry sound, and what needs care."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import adapterhub
from adapterhub.documents import Finding
from adapterhub.registry.database import VERSION
from tests.operations.merge_files import base
from tests.registry.libraries import adapter, embedding, said


@pytest.fixture
def library(tmp_path: Path) -> Path:
    root = tmp_path / "library"
    for number in range(3):
        adapter(root / f"a{number}.safetensors", number)
    return root


@pytest.fixture
def db(tmp_path: Path, library: Path) -> Path:
    adapterhub.index(library, db=tmp_path / "r.db", jobs=1)
    return tmp_path / "r.db"


def codes(db: Path) -> Mapping[str, Finding]:
    return {one.code: one for one in adapterhub.doctor(db=db).findings}


def change(db: Path, *statements: str) -> None:
    """Writes to the database behind our back."""
    with sqlite3.connect(db) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def test_a_sound_registry_has_no_findings(db, cli):
    found = adapterhub.doctor(db=db)
    assert (found.exists, found.version, found.records, found.findings) == (True, VERSION, 3, [])
    outcome = cli("doctor", "--db", db)
    assert (outcome.status, outcome.out.splitlines()[-1]) == (0, "all is well")


@pytest.mark.parametrize("kind", ["lora", "embedding", "checkpoint"])
def test_pickles_are_mended_by_the_command_that_is_told(kind, tmp_path, cli):
    made = {"lora": adapter, "embedding": embedding, "checkpoint": base}[kind](tmp_path / "m.safetensors")
    pickled = tmp_path / "library" / "m.pt"
    pickled.parent.mkdir()
    torch.save(load_file(made), pickled)
    adapterhub.index(pickled.parent, db=tmp_path / "r.db")
    command, *words = codes(tmp_path / "r.db")["pickles"].mend.replace("FILE", str(pickled)).split()
    assert (command, cli(*words).status) == ("adapterhub", 0)
    assert adapterhub.inspect(f"{pickled}.safetensors").container == "safetensors"


def test_where_there_is_no_registry_that_is_said(tmp_path, cli):
    assert list(codes(tmp_path / "none.db")) == ["no-registry"]
    assert cli("doctor", "--db", tmp_path / "none.db").status == 0
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_gone_changed_or_known_to_be_missing(db, library):
    (library / "a0.safetensors").unlink()
    adapterhub.index(db=db, jobs=1)
    (library / "a1.safetensors").unlink()
    os.utime(library / "a2.safetensors", ns=(1, 1))
    found = codes(db)
    assert found.keys() == {"missing", "gone", "changed"}
    assert [found[code].examples for code in ("missing", "gone", "changed")] == [
        [str(library / f"a{number}.safetensors")] for number in range(3)
    ]


def test_refused_files_pickles_copies_and_what_waits(tmp_path, library):
    (library / "broken.safetensors").write_bytes(b"<html>")
    torch.save({"emb_params": torch.ones(2, 768)}, library / "e.pt")
    (library / "copy.safetensors").write_bytes((library / "a0.safetensors").read_bytes())
    os.link(library / "a1.safetensors", library / "link.safetensors")
    adapterhub.index(library, db=tmp_path / "r.db", jobs=1)
    adapter(library / "new.safetensors", 9)
    adapterhub.index(library, db=tmp_path / "r.db", jobs=1, hash=False)
    found = codes(tmp_path / "r.db")
    assert found.keys() == {"refused", "pickles", "duplicates", "waiting"}
    assert found["duplicates"].examples == [str(library / "a0.safetensors")]
    assert {one.count for one in found.values()} == {1}


def test_side_cars_that_contradict_the_file(tmp_path, library):
    (library / "a0.civitai.info").write_text(
        '{"id": 1, "modelId": 2, "baseModel": "SD 1.5", "trainedWords": [], "files": [{"name": "a0.safetensors", "primary": true, '
        f'"hashes": {{"SHA256": "{"ab" * 32}"}}}}], "model": {{"name": "x", "type": "LORA"}}}}')  # fmt: skip
    said(library / "a0.safetensors", sd_version="SDXL")
    adapterhub.index(library, db=tmp_path / "r.db", jobs=1)
    found = codes(tmp_path / "r.db")
    assert {"disagreements", "wrong-hashes"} <= found.keys()
    assert found["disagreements"].examples[0].startswith(f"{library / 'a0.safetensors'}: base_model is ")


UNSOUND = {
    "search-index": ("DROP TRIGGER texts_au", "UPDATE texts SET notes = 'unseen words'"),
    "orphans": ("PRAGMA foreign_keys = OFF", "DELETE FROM records WHERE id = 2"),
    "texts": ("DELETE FROM texts WHERE record_id = 2",),
}


@pytest.mark.parametrize("code", UNSOUND)
def test_derived_rows_that_are_out_of_step_are_told_and_made_again(db, cli, code):
    with sqlite3.connect(db) as connection:
        triggers = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'texts_au'").fetchone()
    change(db, *UNSOUND[code])
    if code == "search-index":
        change(db, triggers[0])
    assert code in codes(db)
    assert cli("doctor", "--db", db).status == 1
    outcome = cli("doctor", "--db", db, "--rebuild")
    assert (outcome.status, outcome.out.splitlines()[-1]) == (0, "all is well")


def test_a_table_that_is_missing_or_another_is_told(db, cli):
    change(db, "DROP TABLE recipes", "ALTER TABLE passed ADD COLUMN more")
    assert {"table recipes", "table passed"} <= {*codes(db)["schema"].examples}
    assert cli("doctor", "--db", db).status == 1


def test_a_version_that_is_not_that_of_its_migrations_is_told(db):
    change(db, "DELETE FROM _sqlite_migrations")
    assert "version" in codes(db)


def pages(db: Path) -> int:
    with sqlite3.connect(db) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        count: int = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.close()
    return count


def test_a_page_that_is_overwritten_is_told_wherever_it_is(db, cli):
    count, whole = pages(db), db.read_bytes()
    random = np.random.default_rng(0)
    verdicts = set()
    for page in range(1, count):
        db.write_bytes(whole[: page * 4096] + random.bytes(4096) + whole[(page + 1) * 4096 :])
        outcome = cli("doctor", "--db", db)
        assert "internal" not in outcome.err
        verdicts.add(outcome.status)
    assert verdicts <= {0, 1, 3}  # a page that nobody uses harms nobody
    assert 1 in verdicts


@pytest.mark.parametrize("kept", [0, 50, 100, 4096, 5000, 40960, -4096, -1])
def test_a_database_that_is_cut_is_told(db, cli, kept):
    pages(db)
    whole = db.read_bytes()
    db.write_bytes(whole[:kept])
    outcome = cli("doctor", "--db", db)
    assert "internal" not in outcome.err
    assert outcome.status in ((0,) if kept == 0 else (1, 3))  # an empty file is an empty registry


@pytest.mark.parametrize(
    "statement",
    ["PRAGMA user_version = 999", "PRAGMA application_id = 7"],
    ids=["from a later version", "of something else"],
)
def test_what_is_none_of_ours_is_refused_and_left_alone(db, cli, statement):
    change(db, statement)
    before = db.read_bytes()
    for command in (
        ["doctor"],
        ["doctor", "--rebuild"],
        ["verify"],
        ["list"],
        ["backup", db.with_name("b.db")],
        ["export"],
    ):
        assert cli(*command, "--db", db).status == 3
    assert db.read_bytes() == before
    assert not db.with_name("b.db").exists()
