"""tag, note, rate, alias, remove."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import adapterhub
from adapterhub.errors import NotFound, UsageError
from adapterhub.registry.find import Filter
from tests.registry.libraries import adapter, rows, said


@pytest.fixture
def db(tmp_path: Path) -> Path:
    style = adapter(tmp_path / "style.safetensors", 1)
    style.with_suffix(".civitai.info").write_text(
        '{"id": 7, "modelId": 3, "name": "v1", "baseModel": "SD 1.5", "trainedWords": ["w"], "model": {"name": "Style", "type": "LORA", "tags": ["anime", "art"]}, "files": []}'
    )
    adapter(tmp_path / "other.safetensors", 2)
    adapterhub.index(tmp_path, db=tmp_path / "r.db")
    return tmp_path / "r.db"


def test_tags_come_beside_those_of_others_and_go_whoever_said_them(db):
    assert adapterhub.show("style", db=db).tags == ["anime", "art"]
    assert adapterhub.tag("style", "mine", "  two   words ", db=db).tags == ["anime", "art", "mine", "two words"]
    assert adapterhub.tag("style", remove=["ANIME", "mine"], db=db).tags == ["art", "two words"]
    assert [one.name for one in adapterhub.list(Filter(tag="two words"), db=db)] == ["style"]
    assert [one.name for one in adapterhub.search("words", db=db)] == ["style"]


def test_tags_that_were_removed_stay_so_when_the_side_car_changes(db):
    adapterhub.tag("style", remove=["anime", "art"], db=db)
    path = db.parent / "style.civitai.info"
    path.write_text(path.read_text().replace("Style", "Another"))
    adapterhub.index(db=db)
    told = adapterhub.show("style", db=db)
    assert (told.tags, [one.value for one in told.facts["title"]]) == ([], ["Another"])


def test_a_tag_that_is_not_there_cannot_go(db):
    with pytest.raises(NotFound, match="has no tag 'green'"):
        adapterhub.tag("style", remove=["green"], db=db)
    with pytest.raises(UsageError, match="an empty name"):
        adapterhub.tag("style", " \n ", db=db)


def test_a_note_is_kept_before_those_of_others(db):
    said(db.parent / "style.safetensors", notes="of the side-car")
    adapterhub.index(db=db)
    adapterhub.note("style", "my own", db=db)
    told = adapterhub.show("style", db=db).facts["notes"]
    assert [(one.origin, one.value) for one in told] == [("user", "my own"), ("a1111", "of the side-car")]
    assert [one.name for one in adapterhub.search("own", db=db)] == ["style"]
    adapterhub.note("style", " ", db=db)
    assert [one.origin for one in adapterhub.show("style", db=db).facts["notes"]] == ["a1111"]


def test_stars_are_one_to_five(db):
    assert adapterhub.rate("style", 5, db=db).facts["rating"][0].value == 5
    assert "rating" not in adapterhub.rate("style", 0, db=db).facts
    with pytest.raises(UsageError, match="6 stars"):
        adapterhub.rate("style", 6, db=db)


def test_an_alias_is_a_reference_and_is_found(db):
    adapterhub.alias("style", "Best One", db=db)
    assert adapterhub.show("best one", db=db).name == "style"
    assert [one.name for one in adapterhub.search("best", db=db)] == ["style"]
    adapterhub.alias("style", remove=["BEST one"], db=db)
    with pytest.raises(NotFound):
        adapterhub.show("best one", db=db)
    with pytest.raises(NotFound, match="is not called 'best one'"):
        adapterhub.alias("style", remove=["best one"], db=db)


def test_what_is_forgotten_leaves_nothing_but_its_file(db):
    adapterhub.tag("style", "mine", db=db)
    (gone,) = adapterhub.remove("style", db=db)
    assert (gone.name, Path(gone.path).exists()) == ("style", True)
    for table in ("files", "facts", "traits", "texts", "metadata"):
        assert rows(db, f"SELECT count(*) FROM {table} WHERE record_id = ?", gone.id) == [(0,)]
    assert [one.name for one in adapterhub.list(db=db)] == ["other"]
    assert adapterhub.search("style", db=db) == []
    adapterhub.index(db=db)
    assert adapterhub.show("style", db=db).tags == ["anime", "art"]


def test_all_that_are_missing_are_forgotten_together(db):
    (db.parent / "style.safetensors").unlink()
    adapterhub.index(db=db)
    assert [one.name for one in adapterhub.remove(missing=True, db=db)] == ["style"]
    assert adapterhub.remove(missing=True, db=db) == []


def test_what_was_deleted_since_the_last_index_is_missing_too(db):
    (db.parent / "style.safetensors").unlink()
    assert [one.name for one in adapterhub.remove(missing=True, db=db)] == ["style"]
    assert [one.name for one in adapterhub.list(db=db)] == ["other"]


def test_what_lies_on_a_disk_that_is_not_mounted_is_kept(db):
    (db.parent / "disk").mkdir()
    shutil.copy(db.parent / "style.safetensors", db.parent / "disk" / "away.safetensors")
    adapterhub.index(db.parent / "disk", db=db)
    (db.parent / "disk").rename(db.parent.parent / "unmounted")
    assert adapterhub.remove(missing=True, db=db) == []


def test_a_name_means_the_file_that_is_still_there(db):
    (db.parent / "kept").mkdir()
    shutil.copy(db.parent / "style.safetensors", db.parent / "kept" / "style.safetensors")
    adapterhub.index(db=db)
    with pytest.raises(UsageError, match="may be any of"):
        adapterhub.show("style", db=db)
    (db.parent / "style.safetensors").unlink()
    assert Path(adapterhub.show("style", db=db).path).parent.name == "kept"


def test_the_command_line_does_the_same(cli, db):
    assert cli("tag", "style", "x", "--remove", "anime", "--db", db).out == "style: art, x\n"
    assert cli("note", "style", "hello", "--db", db).out == "style: hello\n"
    assert cli("rate", "style", "3", "--db", db).out == "style: ★★★\n"
    assert cli("alias", "style", "s", "--db", db).out == "style: s\n"
    assert cli("show", "nothing", "--db", db).status == 1
    assert cli("remove", "--db", db).status == 2
    assert cli("remove", "s", "--db", db).out.startswith("forgotten  style")
