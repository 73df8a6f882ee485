"""export --sidecar: what the registry knows, written for other programs and read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import adapterhub
from adapterhub.errors import UnknownName
from adapterhub.registry.facts import FAMILIES
from tests.registry.libraries import adapter, said


@pytest.fixture
def db(tmp_path: Path) -> Path:
    said(adapter(tmp_path / "style.safetensors", 1), activation_text="style word, other", description="What it is")
    adapter(tmp_path / "plain.safetensors", 2)
    db = tmp_path / "r.db"
    adapterhub.index(tmp_path, db=db)
    adapterhub.tag("style", "mine", db=db)
    adapterhub.note("style", "from here", db=db)
    return db


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_is_read_by_the_next_index(db, family):
    (done,) = adapterhub.export_sidecars(family, "style", db=db)
    assert (done.error, done.written, Path(done.sidecar).exists()) == (None, True, True)
    adapterhub.index(db=db)
    told = adapterhub.show("style", db=db)
    assert [one.value for one in told.facts["words"] if one.origin == family] == [["style word", "other"]]
    (again,) = adapterhub.export_sidecars(family, "style", db=db)
    assert (again.written, again.changes) == (False, [])


def test_unknown_keys_stay_and_the_users_notes_come(db):
    path = db.parent / "style.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"extensions": {"x": [1]}}))
    adapterhub.index(db=db)
    (done,) = adapterhub.export_sidecars("a1111", "style", db=db)
    told = json.loads(path.read_text())
    assert (told["notes"], told["extensions"]) == ("from here", {"x": [1]})
    assert [(one.field, one.before, one.after) for one in done.changes] == [("notes", None, "from here")]
    assert "tags" in [one.field for one in done.left_out]


def test_a_dry_run_writes_nothing(db):
    before = sorted(db.parent.glob("*[!lm]"))
    found = adapterhub.export_sidecars("civitai", dry_run=True, db=db)
    assert [(Path(one.model).name, one.written) for one in found] == [
        ("plain.safetensors", False),
        ("style.safetensors", False),
    ]
    assert sorted(db.parent.glob("*[!lm]")) == before


def test_a_malformed_side_car_is_left_alone_and_the_others_are_written(db, cli):
    (db.parent / "plain.json").write_text("{")
    out = cli("export", "--sidecar", "a1111", "--json", "--db", db)
    assert out.status == 1
    by_name = {Path(one["model"]).stem: one for one in json.loads(out.out)}
    assert by_name["style"]["written"]
    assert by_name["plain"]["error"]
    assert (db.parent / "plain.json").read_text() == "{"


def test_a_family_that_nobody_knows_is_wrong_usage(db, cli):
    with pytest.raises(UnknownName):
        adapterhub.export_sidecars("poster", db=db)
    assert cli("export", "style", "--db", db).status == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_two_files_of_one_name_never_say_different_things_in_one_side_car(db, family):
    twin = adapter(db.parent / "style.pt.safetensors", 3).rename(db.parent / "style.sft")
    adapterhub.index(db.parent, db=db)
    adapterhub.tag(str(twin), "other", db=db)
    before = sorted(db.parent.iterdir())
    refused = {Path(one.model).name: one.error for one in adapterhub.export_sidecars(family, db=db) if one.error}
    assert refused == {
        "style.safetensors": "style.sft beside it has the same side-car, and other facts: give one of the two another name",
        "style.sft": "style.safetensors beside it has the same side-car, and other facts: give one of the two another name",
    }
    new = {*db.parent.iterdir()} - {*before}
    assert {path.name.partition(".")[0] for path in new} - {"r"} == {"plain"}
