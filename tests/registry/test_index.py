"""index: what lies under folders comes into the registry, what did not change is not read, what is gone is noted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import adapterhub
from adapterhub.errors import UsageError
from tests.registry.libraries import adapter, content, embedding, rows, said


@pytest.fixture
def library(tmp_path: Path) -> Path:
    root = tmp_path / "library"
    adapter(root / "style.safetensors", 1, ss_output_name="style", ss_sd_model_name="base.safetensors")
    adapter(root / "deep" / "other.safetensors", 2, rank=8)
    embedding(root / "embeddings" / "word.safetensors")
    (root / "broken.safetensors").write_bytes(b"<html>")
    (root / "readme.md").write_text("no model")
    return root


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "r.db"


def test_everything_is_identified_and_hashed(library, db):
    done = adapterhub.index(library, db=db)
    assert (done.found, done.new, done.refused, done.hashed, done.waiting) == (4, 4, 1, 4, 0)
    found = rows(db, "SELECT name, kind, layout, architecture, rank, refused IS NULL FROM records ORDER BY name")
    assert found == [
        ("broken", "unknown", None, None, None, 0),
        ("other", "lora", "kohya", "sd1", 8, 1),
        ("style", "lora", "kohya", "sd1", 4, 1),
        ("word", "embedding", "kohya", "sd1", None, 1),
    ]


def test_hashes_and_fingerprint_are_those_of_inspect(library, db):
    adapterhub.index(library, db=db)
    told = adapterhub.show("style", db=db)
    alone = adapterhub.inspect(library / "style.safetensors", hash=True)
    (file,) = (file for file in told.files if file.role == "content")
    known = {name: digits for name, digits in alone.hashes if digits and not digits.startswith("e3b0c442")}
    assert file.hashes == known
    assert (told.fingerprint, told.sha256, told.metadata) == (alone.fingerprint, alone.hashes.sha256, alone.metadata)


def test_a_hash_of_nothing_finds_nothing(library, db):
    adapterhub.index(library, db=db)
    assert rows(db, "SELECT count(*) FROM hashes WHERE value LIKE 'e3b0c442%'") == [(0,)]


def test_a_second_run_reads_no_file(library, db, monkeypatch):
    adapterhub.index(library, db=db)
    before = content(db)
    monkeypatch.setattr("adapterhub.files.source.Source.__init__", _never)
    monkeypatch.setattr("adapterhub.registry.identified.identify", _never)
    done = adapterhub.index(library, db=db)
    assert (done.found, done.unchanged, done.hashed, done.bytes) == (4, 4, 0, 0)
    assert content(db) == before


def _never(*_: object) -> None:
    raise AssertionError("a file was read")


def test_without_hash_it_is_usable_at_once_and_hashed_next_time(library, db):
    first = adapterhub.index(library, db=db, hash=False)
    assert (first.hashed, first.waiting) == (0, 4)
    assert [one.name for one in adapterhub.search("style", db=db)] == ["style"]
    assert adapterhub.show("style", db=db).hashed is False
    second = adapterhub.index(library, db=db)
    assert (second.unchanged, second.hashed, second.waiting) == (4, 4, 0)


def test_a_changed_file_is_read_again_and_keeps_what_the_user_said(library, db):
    adapterhub.index(library, db=db)
    adapterhub.tag("style", "mine", db=db)
    before = adapterhub.show("style", db=db)
    adapter(library / "style.safetensors", 9, rank=16)
    done = adapterhub.index(library, db=db)
    after = adapterhub.show("style", db=db)
    assert (done.changed, done.unchanged, done.hashed) == (1, 3, 1)
    assert (after.id, after.rank, after.tags, after.metadata) == (before.id, 16, ["mine"], {})
    assert after.fingerprint != before.fingerprint
    assert [one.rank for one in adapterhub.list(db=db) if one.name == "style"] == [16]


def test_what_is_gone_is_missing_and_comes_back_unread(library, db):
    adapterhub.index(library, db=db)
    (library / "style.safetensors").rename(library.parent / "aside")
    assert adapterhub.index(library, db=db).missing == 1
    assert adapterhub.show("style", db=db).missing is not None
    assert "style" not in [one.name for one in adapterhub.list(db=db)]
    (library.parent / "aside").rename(library / "style.safetensors")
    done = adapterhub.index(library, db=db)
    assert (done.hashed, adapterhub.show("style", db=db).missing) == (0, None)


def test_a_moved_file_keeps_what_the_user_said_and_is_not_hashed_again(library, db):
    adapterhub.index(library, db=db)
    adapterhub.note("style", "good", db=db)
    before = adapterhub.show("style", db=db)
    (library / "style.safetensors").rename(library / "deep" / "renamed.safetensors")
    done = adapterhub.index(library, db=db)
    after = adapterhub.show("renamed", db=db)
    assert (done.moved, done.new, done.missing, done.hashed) == (1, 0, 0, 0)
    assert [told.value for told in after.facts["notes"]] == ["good"]
    assert (after.sha256, after.added) == (before.sha256, before.added)
    assert rows(db, "SELECT count(*) FROM records WHERE name = 'style'") == [(0,)]


def test_a_file_moved_to_another_disk_is_known_by_its_content(library, db, tmp_path):
    adapterhub.index(library, db=db)
    adapterhub.rate("style", 5, db=db)
    shutil.copyfile(library / "style.safetensors", tmp_path / "copy")
    (library / "style.safetensors").unlink()
    (library / "kept.safetensors").write_bytes((tmp_path / "copy").read_bytes())
    assert adapterhub.index(library, db=db).moved == 1
    assert [told.value for told in adapterhub.show("kept", db=db).facts["rating"]] == [5]


def test_a_copy_is_no_move(library, db):
    adapterhub.index(library, db=db)
    shutil.copyfile(library / "style.safetensors", library / "copy.safetensors")
    done = adapterhub.index(library, db=db)
    assert (done.new, done.moved) == (1, 0)


def test_a_hard_link_is_hashed_once(library, db):
    os.link(library / "style.safetensors", library / "twin.safetensors")
    done = adapterhub.index(library, db=db)
    size = (library / "style.safetensors").stat().st_size
    whole = sum(one.size for one in adapterhub.list(db=db))
    assert (done.hashed, done.bytes) == (5, whole - size)
    assert adapterhub.show("twin", db=db).fingerprint == adapterhub.show("style", db=db).fingerprint


def test_what_lies_beside_a_file_is_read_again_without_reading_the_file(library, db, monkeypatch):
    adapterhub.index(library, db=db)
    said(library / "style.safetensors", activation_text="in the style of")
    monkeypatch.setattr("adapterhub.registry.identified.identify", _never)
    done = adapterhub.index(library, db=db)
    told = adapterhub.show("style", db=db)
    assert (done.changed, done.hashed) == (1, 0)
    assert (told.words, told.facts["words"][0].origin) == (["in the style of"], "a1111")
    assert [told.value for told in told.facts["alias"]] == ["style"]  # of its header, which was not read again
    (library / "style.json").unlink()
    adapterhub.index(library, db=db)
    assert adapterhub.show("style", db=db).words == []


def test_a_preview_is_known_and_no_record_of_its_own(library, db):
    (library / "style.preview.PNG").write_bytes(b"\x89PNG\r\n\x1a\n")
    (library / "style.webp").write_bytes(b"RIFF")
    done = adapterhub.index(library, db=db)
    assert (done.found, done.troubles) == (4, [])
    roles = {Path(file.path).name: file.role for file in adapterhub.show("style", db=db).files}
    assert roles == {"style.safetensors": "content", "style.preview.PNG": "preview", "style.webp": "preview"} or roles == {
        "style.safetensors": "content", "style.preview.PNG": "preview"}  # fmt: skip
    again = adapterhub.index(library, db=db)
    assert (again.new, again.changed, again.unchanged) == (0, 0, 4)


def test_without_a_folder_all_that_were_given_are_indexed_again(library, db, tmp_path):
    adapterhub.index(library, db=db)
    adapter(library / "new.safetensors", 5)
    adapter(tmp_path / "elsewhere.safetensors", 6)
    done = adapterhub.index(db=db)
    assert (done.new, done.unchanged) == (1, 4)


def test_nothing_to_index_is_said(db, tmp_path):
    with pytest.raises(UsageError, match="nothing was indexed before"):
        adapterhub.index(db=db)
    with pytest.raises(UsageError, match="no such file or folder"):
        adapterhub.index(tmp_path / "nowhere", db=db)


def test_a_folder_that_is_gone_leaves_its_records_missing(library, db):
    adapterhub.index(library, db=db)
    shutil.rmtree(library)
    assert adapterhub.index(library, db=db).missing == 4


def test_records_outside_of_the_folder_are_left_alone(library, db, tmp_path):
    adapter(tmp_path / "more" / "second.safetensors", 7)
    adapterhub.index(library, tmp_path / "more", db=db)
    shutil.rmtree(tmp_path / "more")
    adapterhub.index(library, db=db)
    assert adapterhub.show("second", db=db).missing is None


def test_processes_find_what_one_finds(tmp_path):
    for n in range(70):
        adapter(tmp_path / "many" / f"{n}.safetensors", n, rank=1 + n % 3)
    adapterhub.index(tmp_path / "many", db=tmp_path / "one.db", jobs=1)
    done = adapterhub.index(tmp_path / "many", db=tmp_path / "two.db", jobs=2)
    assert done.hashed == 70
    assert content(tmp_path / "one.db") == content(tmp_path / "two.db")


def test_a_model_of_several_files_is_one_record(tmp_path, db):
    adapterhub.convert(adapter(tmp_path / "a.safetensors"), tmp_path / "peft", to="peft", digests=False)
    done = adapterhub.index(tmp_path / "peft", db=db)
    told = adapterhub.show(str(tmp_path / "peft"), db=db)
    assert (done.found, told.layout, told.container) == (1, "peft", "directory")
    assert sorted(Path(file.path).name for file in told.files) == ["adapter_config.json", "adapter_model.safetensors"]
    assert all(set(file.hashes) >= {"sha256"} for file in told.files)
    assert told.fingerprint == adapterhub.inspect(tmp_path / "a.safetensors", hash=True).fingerprint
    assert adapterhub.index(tmp_path / "peft", db=db).unchanged == 1


def test_a_file_that_vanishes_while_it_is_looked_at_is_told(library, db, monkeypatch):
    from adapterhub.registry import index as module

    walk = module.walk

    def vanishing(paths):
        for found in walk(paths):
            if found.path.name == "style.safetensors":
                found.path.unlink()
            yield found

    monkeypatch.setattr(module, "walk", vanishing)
    done = adapterhub.index(library, db=db)
    assert done.found == 4
    assert [Path(trouble.path).name for trouble in done.troubles] == ["style.safetensors"]
    assert sorted(one.name for one in adapterhub.list(db=db)) == ["broken", "other", "word"]


def test_a_file_that_changes_while_it_is_hashed_waits(library, db, monkeypatch):
    adapterhub.index(library, db=db, hash=False)
    os.utime(library / "style.safetensors", ns=(1, 1))
    from adapterhub.registry import hashing
    from adapterhub.registry.database import writing

    with writing(db) as connection:
        done = hashing.hash_all(connection, 1)
    assert [Path(trouble.path).name for trouble in done.troubles] == ["style.safetensors"]
    assert adapterhub.show("style", db=db).hashed is False
    adapterhub.index(library, db=db)
    assert adapterhub.show("style", db=db).hashed is True


def test_a_picture_that_holds_an_embedding_is_a_record_and_another_is_passed_over(tmp_path, db, monkeypatch):
    from PIL import Image

    word = embedding(tmp_path / "word.safetensors")
    adapterhub.convert(word, tmp_path / "card.png", to="a1111-image")
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    first = adapterhub.index(tmp_path, db=db)
    assert (first.found, sorted(one.name for one in adapterhub.list(db=db))) == (2, ["card", "word"])
    monkeypatch.setattr("adapterhub.registry.identified.identify", _never)
    assert adapterhub.index(tmp_path, db=db).unchanged == 2
    monkeypatch.undo()
    Image.new("RGB", (8, 8)).save(tmp_path / "card.png")
    adapterhub.index(tmp_path, db=db)
    assert [one.name for one in adapterhub.list(db=db)] == ["word"]


def test_a_defect_of_ours_costs_one_file(library, db, monkeypatch):
    from adapterhub.operations import inspect as module

    real = module.inspect
    monkeypatch.setattr(module, "inspect", lambda path: 1 / 0 if path.name == "style.safetensors" else real(path))
    done = adapterhub.index(library, db=db)
    assert [(Path(one.path).name, one.message) for one in done.troubles] == [
        ("style.safetensors", "ZeroDivisionError: division by zero")
    ]
    assert done.found == 4
    assert len(adapterhub.list(db=db)) == 3


def test_folders_that_share_a_file_are_each_read_whole(tmp_path, db):
    """As revisions in a cache do: a hard link between them says nothing of their other files."""
    for seed, name in enumerate(("one", "two")):
        adapterhub.convert(adapter(tmp_path / f"{name}.safetensors", seed), tmp_path / "lib" / name, to="peft")
    (config, other) = sorted((tmp_path / "lib").rglob("adapter_config.json"))
    other.unlink()
    os.link(config, other)
    os.link(next((tmp_path / "lib" / "one").rglob("*.safetensors")), tmp_path / "lib" / "alone.safetensors")
    done = adapterhub.index(tmp_path / "lib", db=db)
    assert (done.found, done.hashed) == (3, 3)
    for name in ("one", "two"):
        wanted = adapterhub.inspect(tmp_path / f"{name}.safetensors", hash=True).fingerprint
        assert adapterhub.show(str(tmp_path / "lib" / name), db=db).fingerprint == wanted
    alone = adapterhub.inspect(tmp_path / "lib" / "alone.safetensors", hash=True)
    assert adapterhub.show("alone", db=db).sha256 == alone.hashes.sha256
