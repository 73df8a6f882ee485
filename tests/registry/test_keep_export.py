"""export and import: what one registry knows, told to another."""

from __future__ import annotations

import json
import os
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import adapterhub
from adapterhub import documents
from adapterhub.errors import OutputExists, RefusedInput, UsageError
from adapterhub.registry.find import Filter
from tests.registry.libraries import adapter, content, embedding, rows, said


@pytest.fixture
def library(tmp_path: Path) -> Path:
    root = tmp_path / "library"
    adapter(root / "style.safetensors", 1, ss_output_name="style", ss_sd_model_name="base.safetensors")
    adapter(root / "deep/other.safetensors", 2, rank=8)
    embedding(root / "word.safetensors")
    (root / "copy.safetensors").write_bytes((root / "style.safetensors").read_bytes())
    os.link(root / "style.safetensors", root / "link.safetensors")
    adapter(Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9\n.safetensors")), 3)
    (root / "broken.safetensors").write_bytes(b"<html>")
    said(root / "style.safetensors", activation_text="a, b", notes="noted")
    return root


@pytest.fixture
def db(tmp_path: Path, library: Path) -> Path:
    db = tmp_path / "r.db"
    adapterhub.index(library, db=db, jobs=1)
    adapterhub.tag("other", "mine", db=db)
    adapterhub.note("other", "a note\nof two lines", db=db)
    adapterhub.rate("other", 4, db=db)
    adapterhub.alias("other", "another", db=db)
    done = adapterhub.scale(library / "style.safetensors", library.parent / "scaled.safetensors", 0.5)
    adapterhub.record(done, db=db)
    (library / "word.safetensors").unlink()
    adapterhub.index(db=db, jobs=1)
    return db


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def exported(db: Path, name: str = "e.jsonl") -> Path:
    path = db.with_name(name)
    adapterhub.export(path, db=db, force=True)
    return path


def test_an_export_has_all_records_files_facts_and_recipes(db):
    found = lines(exported(db))
    assert [line["type"] for line in found] == ["export", *["record"] * 8, "recipe"]
    told = {line["name"]: line for line in found[1:-1]}
    assert told["word"]["missing"]
    assert told["other"]["facts"]["notes"] == [{"value": "a note\nof two lines", "origin": "user"}]
    assert told["style"]["metadata"]["ss_output_name"] == "style"
    assert len(told["style"]["files"][0]["hashes"]["sha256"]) == 64
    assert told["style"]["sketch"]
    assert (found[-1]["command"], found[-1]["parents"][0]["sha256"]) == ("scale", told["style"]["sha256"])


def test_every_line_is_what_its_schema_says(db):
    schemas = {name: json.loads(documents.schema(f"export-{name}")) for name in ("record", "recipe")}
    for line in lines(exported(db))[1:]:
        jsonschema.validate(line, schemas[line["type"]])


def test_what_was_exported_and_imported_is_exported_the_same(db, tmp_path):
    first = exported(db)
    done = adapterhub.import_(first, db=tmp_path / "n.db")
    assert (done.added, done.merged, done.recipes) == (8, 0, 1)
    assert exported(tmp_path / "n.db", "again.jsonl").read_bytes() == first.read_bytes()
    assert content(tmp_path / "n.db") == content(db)
    for ask in (lambda db: adapterhub.search("note", db=db), lambda db: adapterhub.list(Filter(token="a"), db=db)):
        assert ask(tmp_path / "n.db") == ask(db) != []
    assert not [one for one in adapterhub.doctor(db=tmp_path / "n.db").findings if one.severity == "error"]


def test_importing_twice_changes_nothing_more(db, tmp_path):
    path = exported(db)
    adapterhub.import_(path, db=tmp_path / "n.db")
    done = adapterhub.import_(path, db=tmp_path / "n.db")
    assert (done.added, done.merged, done.recipes) == (0, 8, 0)
    assert exported(tmp_path / "n.db", "again.jsonl").read_bytes() == path.read_bytes()


def test_the_next_index_knows_imported_files_again_by_what_they_hold(db, tmp_path):
    adapterhub.import_(exported(db), db=tmp_path / "n.db")
    done = adapterhub.index(tmp_path / "library", db=tmp_path / "n.db", jobs=1)
    assert (done.new, done.changed) == (0, 6)
    assert adapterhub.show("other", db=tmp_path / "n.db").tags == ["mine"]


def test_what_people_said_here_and_there_is_kept_of_both(db, tmp_path, library):
    other = tmp_path / "o.db"
    moved = adapter(tmp_path / "elsewhere/renamed.safetensors", 2, rank=8)
    adapterhub.index(moved.parent, db=other, jobs=1)
    adapterhub.tag("renamed", "theirs", "Mine", db=other)
    adapterhub.note("renamed", "here", db=other)
    adapterhub.rate("renamed", 2, db=other)
    done = adapterhub.import_(exported(db), db=other)
    assert (done.added, done.merged) == (7, 1)
    told = adapterhub.show("renamed", db=other)
    assert told.facts is not None
    mine = {name: one.value for name, all_ in told.facts.items() for one in all_ if one.origin == "user"}
    assert mine == {
        "tags": ["theirs", "Mine"],
        "notes": "here\n\na note\nof two lines",
        "rating": 2,
        "aliases": ["another"],
    }
    assert adapterhub.show("another", db=other).path == str(moved)


def test_filters_choose_records_and_their_recipes(db, tmp_path, cli):
    adapterhub.export(tmp_path / "f.jsonl", Filter(tag="mine"), db=db)
    assert [line.get("name") for line in lines(tmp_path / "f.jsonl")] == [None, "other"]
    outcome = cli("export", "--kind", "embedding", "--db", db)
    assert [json.loads(line).get("name") for line in outcome.out.splitlines()] == [None, "word"]


def test_standard_output_has_the_same_lines(db, cli):
    assert cli("export", "--db", db).out == exported(db).read_text("ascii")


def test_lines_on_standard_output_are_not_one_document(db, tmp_path, cli):
    out = cli("export", "--db", db, "--json")
    assert (out.status, out.out, "give -o FILE" in out.err) == (2, "", True)
    assert json.loads(cli("export", "--db", db, "--json", "-o", tmp_path / "e.jsonl").out)["records"] == 8


def test_an_export_replaces_nothing_without_force(db, tmp_path):
    (tmp_path / "e").write_bytes(b"mine")
    with pytest.raises(OutputExists):
        adapterhub.export(tmp_path / "e", db=db)
    assert (tmp_path / "e").read_bytes() == b"mine"


def test_a_parquet_table_has_a_row_a_record(db, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    done = adapterhub.export(tmp_path / "t.parquet", form="parquet", db=db)
    table = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert done.records == len(table) == 8
    (other,) = (row for row in table if row["name"] == "other")
    assert (other["tags"], other["rank"], json.loads(other["facts"])["rating"][0]["value"]) == (["mine"], 8, 4)


def test_without_pyarrow_the_extra_is_named(db, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"adapterhub\[parquet\]"):
        adapterhub.export(tmp_path / "t.parquet", form="parquet", db=db)
    assert not (tmp_path / "t.parquet").exists()


def test_memory_does_not_grow_with_the_number_of_records(tmp_path, db):
    record = next(line for line in lines(exported(db)) if line.get("name") == "other")
    many = tmp_path / "many.jsonl"
    with many.open("w") as out:
        out.write('{"type": "export", "version": 1}\n')
        for number in range(1, 2001):
            out.write(json.dumps(record | {"id": number, "path": f"/x/{number}", "sha256": None}) + "\n")
    tracemalloc.start()
    adapterhub.import_(many, db=tmp_path / "many.db")
    adapterhub.export(tmp_path / "out.jsonl", db=tmp_path / "many.db")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(lines(tmp_path / "out.jsonl")) == 2001
    assert peak < 20 << 20


HOSTILE = {
    "no JSON": b"{", "no object": b"[1]", "a number": b"7", "no type": b"{}", "another type": b'{"type": "poster"}',
    "a type that is no text": b'{"type": ["record"]}', "deep": b"[" * 100_000, "deep objects": b'{"type":' * 100_000,
    "no UTF-8": b'{"type": "record", "name": "\xff"}', "half a character": b'{"type": "record", "name": "\\ud800"}',
    "a number of many digits": b'{"type": "record", "id": ' + b"9" * 5000 + b"}", "nothing": b"", "NUL": b"\0",
}  # fmt: skip
CHANGED: dict[str, dict[str, Any]] = {
    "a path that is relative": {"path": "x"}, "a path with NUL": {"path": "/a\0b"}, "raw that is no base64": {"raw": "%"},
    "raw that is relative": {"raw": "eA=="}, "a kind": {"kind": "poster"}, "a field": {"colour": "red"}, "a size": {"size": 2**70},
    "an id": {"id": 2**70}, "a sketch": {"sketch": "AAAA"}, "a sketch that is no base64": {"sketch": "%"},
    "a role": {"files": [{"path": "/x", "role": "spy", "size": 1}]},
    "a file given twice": {"files": [{"path": "/x", "role": "content", "size": 1}] * 2},
    "tags that are no list": {"facts": {"tags": [{"origin": "user", "value": 5}]}},
    "words that are nested": {"facts": {"words": [{"origin": "user", "value": [["x"]]}]}},
    "a value that is an object": {"facts": {"x": [{"origin": "user", "value": {"a": 1}}]}},
    "aliases that are a number": {"facts": {"aliases": [{"origin": "user", "value": 5}]}},
    "a title that is a list": {"facts": {"title": [{"origin": "a1111", "value": ["x"]}]}},
    "metadata that is nested": {"metadata": {"a": {"b": "c"}}},
}  # fmt: skip


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A line of an export."""
    folder = tmp_path_factory.mktemp("record")
    adapter(folder / "a.safetensors", 1)
    adapterhub.index(folder, db=folder / "r.db", jobs=1)
    adapterhub.export(folder / "e.jsonl", db=folder / "r.db")
    return lines(folder / "e.jsonl")[1]


@pytest.mark.parametrize("what", [*HOSTILE, *CHANGED])
def test_a_line_that_is_wrong_is_named_and_nothing_is_taken(tmp_path, cli, record, what):
    line = HOSTILE[what] if what in HOSTILE else json.dumps(record | {"path": "/y"} | CHANGED[what]).encode()
    good = json.dumps(record).encode()
    (tmp_path / "e").write_bytes(b'{"type": "export", "version": 1}\n' + good + b"\n" + line + b"\n")
    outcome = cli("import", tmp_path / "e", "--db", tmp_path / "r.db")
    assert outcome.status == 3
    assert "line 3" in outcome.err
    assert "internal" not in outcome.err
    assert rows(tmp_path / "r.db", "SELECT count(*) FROM records") == [(0,)]


@pytest.mark.parametrize("text", [b"", b"\n", b'{"type": "export", "version": 2}', b'{"type": "record"}', b"\x89PNG"])
def test_what_does_not_begin_as_an_export_is_refused(tmp_path, text):
    (tmp_path / "e").write_bytes(text)
    with pytest.raises(RefusedInput):
        adapterhub.import_(tmp_path / "e", db=tmp_path / "r.db")


def test_a_line_without_end_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("adapterhub.registry.importing.LONGEST", 1 << 16)
    with (tmp_path / "e").open("wb") as out:
        out.truncate(1 << 40)
    with pytest.raises(RefusedInput, match="longer"):
        adapterhub.import_(tmp_path / "e", db=tmp_path / "r.db")


def test_an_import_of_no_file_is_refused(tmp_path, cli):
    missing = cli("import", tmp_path / "none", "--db", tmp_path / "r.db")
    assert (missing.status, "none does not exist" in missing.err) == (2, True)
    assert cli("import", tmp_path, "--db", tmp_path / "r.db").status in (2, 5)
