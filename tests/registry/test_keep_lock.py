"""lock and sync: the exact files of a project, written down and put there again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import adapterhub
from adapterhub.documents import Lock
from adapterhub.errors import OutputExists, RefusedInput, UsageError
from adapterhub.registry.find import Filter
from tests.registry.libraries import adapter


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for number, name in enumerate(("styles/a", "styles/b", "c")):
        adapter(tmp_path / f"project/{name}.safetensors", number)
    (tmp_path / "project/c.civitai.info").write_text(
        '{"id": 11, "modelId": 22, "baseModel": "SD 1.5", "trainedWords": [], "model": {"name": "x", "type": "LORA"}, "files": []}'
    )
    return tmp_path / "project"


@pytest.fixture
def db(tmp_path: Path, project: Path) -> Path:
    adapter(tmp_path / "store/a copy.safetensors", 0)
    adapter(tmp_path / "store/else.safetensors", 7)
    adapterhub.index(project, tmp_path / "store", db=tmp_path / "r.db", jobs=1)
    return tmp_path / "r.db"


@pytest.fixture
def locked(project: Path, db: Path) -> Path:
    adapterhub.lock(target=project / "adapterhub.lock", db=db)
    return project / "adapterhub.lock"


def states(path: Path, db: Path, **options: Any) -> list[str]:
    return [one.state for one in adapterhub.sync(path, db=db, **options).files]


def test_a_lock_file_has_what_lies_below_it_by_path_and_no_path_of_the_machine(locked, tmp_path):
    found = json.loads(locked.read_text("utf-8"))
    assert found["version"] == 1
    assert [one["path"] for one in found["files"]] == ["c.safetensors", "styles/a.safetensors", "styles/b.safetensors"]
    assert found["files"][0]["sources"] == {"civitai_model": "22", "civitai_version": "11"}
    assert {"sha256", "size", "name", "kind", "architecture", "layout", "fingerprint"} <= found["files"][0].keys()
    assert str(tmp_path) not in locked.read_text("utf-8")


def test_locking_again_writes_the_same_bytes_and_only_with_force(locked, db):
    before = locked.read_bytes()
    with pytest.raises(OutputExists):
        adapterhub.lock(target=locked, db=db)
    adapterhub.lock(target=locked, db=db, force=True)
    assert locked.read_bytes() == before


def test_what_is_named_is_locked_wherever_it_lies(db, project):
    done = adapterhub.lock("else", "c", target=project / "l", db=db)
    assert [one.path for one in done.files] == ["c.safetensors", "else.safetensors"]
    by_filter = adapterhub.lock(wanted=Filter(under=project / "styles"), target=project / "m", db=db)
    assert [one.path for one in by_filter.files] == ["styles/a.safetensors", "styles/b.safetensors"]


def test_two_files_of_one_name_are_told_apart(tmp_path, project):
    adapter(tmp_path / "one/x.safetensors", 11)
    adapter(tmp_path / "two/x.safetensors", 12)
    adapterhub.index(tmp_path / "one", tmp_path / "two", db=tmp_path / "n.db", jobs=1)
    done = adapterhub.lock(wanted=Filter(), target=project / "l", db=tmp_path / "n.db")
    assert len({one.path for one in done.files}) == 2
    assert states(project / "l", tmp_path / "n.db") == ["restored", "restored"]


def test_what_was_not_read_whole_cannot_be_locked(tmp_path, project):
    adapterhub.index(project, db=tmp_path / "n.db", jobs=1, hash=False)
    with pytest.raises(UsageError, match="not read whole"):
        adapterhub.lock(target=project / "l", db=tmp_path / "n.db")
    assert not (project / "l").exists()


def test_nothing_to_lock_is_said(db, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="nothing to lock"):
        adapterhub.lock(target=tmp_path / "empty" / "l", db=db)


def test_all_that_is_there_is_there(locked, db, cli):
    assert states(locked, db) == ["there"] * 3
    assert cli("sync", locked, "--check", "--db", db).status == 0


def test_what_is_gone_is_copied_from_a_file_of_the_same_bytes(locked, project, db):
    whole = (project / "styles/a.safetensors").read_bytes()
    (project / "styles/a.safetensors").unlink()
    (project / "c.safetensors").unlink()
    done = adapterhub.sync(locked, db=db)
    assert [one.state for one in done.files] == ["missing", "restored", "there"]
    assert (project / "styles/a.safetensors").read_bytes() == whole
    assert done.files[0].sources == {"civitai_model": "22", "civitai_version": "11"}
    assert done.files[1].source == str(project.parent / "store/a copy.safetensors")


def test_check_writes_nothing(locked, project, db, cli):
    (project / "styles/a.safetensors").unlink()
    outcome = cli("sync", locked, "--check", "--db", db)
    assert (outcome.status, outcome.out.split()[:2]) == (1, ["there", "c.safetensors"])
    assert not (project / "styles/a.safetensors").exists()


def test_another_folder_is_filled_and_links_take_no_room(locked, tmp_path, project, db):
    assert states(locked, db, target=tmp_path / "copies") == ["restored"] * 3
    assert states(locked, db, target=tmp_path / "links", link=True) == ["restored"] * 3
    assert (tmp_path / "links/c.safetensors").samefile(project / "c.safetensors")
    assert not (tmp_path / "copies/c.safetensors").samefile(project / "c.safetensors")


def test_what_has_the_name_and_other_bytes_is_left_alone(locked, project, db, cli):
    (project / "c.safetensors").write_bytes(b"mine")
    assert cli("sync", locked, "--db", db).status == 1
    assert (project / "c.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize("link", [False, True])
def test_a_file_that_is_no_longer_what_the_registry_says_is_not_taken(locked, tmp_path, project, db, link):
    (project / "styles/a.safetensors").unlink()
    copy = tmp_path / "store/a copy.safetensors"
    copy.write_bytes(copy.read_bytes()[:-1] + b"?")
    assert states(locked, db, link=link)[1] == "missing"
    assert [path.name for path in (project / "styles").iterdir()] == ["b.safetensors"]


def test_without_a_registry_what_is_there_is_still_checked(locked, tmp_path, project):
    (project / "c.safetensors").unlink()
    assert states(locked, tmp_path / "none.db") == ["missing", "there", "there"]
    assert not (tmp_path / "none.db").exists()


FILE = {"path": "a", "sha256": "0" * 64, "size": 1, "name": "a", "kind": "lora"}
BAD = {
    "out": {"path": "../a"}, "out later": {"path": "a/../../b"}, "absolute": {"path": "/etc/passwd"}, "empty": {"path": ""},
    "only dots": {"path": "."}, "NUL": {"path": "a\0b"}, "a drive": {"path": "C:/x"}, "backslashes": {"path": "..\\x"},
    "a digest": {"sha256": "x" * 64}, "a digest with a line end": {"sha256": "0" * 64 + "\n"}, "a size": {"size": -1},
    "a field": {"colour": "red"}, "no text": {"path": 7},
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_lock_file_that_is_wrong_is_refused(tmp_path, cli, what):
    (tmp_path / "l").write_text(json.dumps({"version": 1, "files": [FILE | BAD[what]]}))
    outcome = cli("sync", tmp_path / "l", "--db", tmp_path / "r.db")
    assert (outcome.status, outcome.out) == (3, "")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "l"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 100_000,
        b"\xff",
        b'{"version": 2, "files": []}',
        json.dumps({"files": [FILE, FILE]}).encode(),
    ],
)
def test_what_is_no_lock_file_is_refused(tmp_path, text):
    (tmp_path / "l").write_bytes(text)
    with pytest.raises(RefusedInput):
        adapterhub.sync(tmp_path / "l", db=tmp_path / "r.db")


def test_no_lock_file_is_said(tmp_path):
    with pytest.raises(UsageError, match="no lock file"):
        adapterhub.sync(tmp_path / "l", db=tmp_path / "r.db")


def test_a_link_that_leads_out_of_the_folder_is_refused_before_anything_is_written(locked, project, tmp_path, db):
    outside = tmp_path / "outside"
    outside.mkdir()
    target = tmp_path / "target"
    target.mkdir()
    (target / "styles").symlink_to(outside)
    with pytest.raises(RefusedInput, match="leads out"):
        adapterhub.sync(locked, target=target, db=db)
    assert [path.name for path in target.iterdir()] == ["styles"]
    assert list(outside.iterdir()) == []


def test_a_link_in_the_place_of_a_file_is_never_written_through(locked, project, tmp_path, db):
    (project / "c.safetensors").unlink()
    (project / "c.safetensors").symlink_to(tmp_path / "victim")
    assert states(locked, db)[0] == "different"
    assert not (tmp_path / "victim").exists()


def test_a_name_that_is_no_utf8_is_refused_with_a_message(tmp_path):
    adapter(Path(os.fsdecode(os.fsencode(tmp_path) + b"/lib/\xff.safetensors")), 1)
    adapterhub.index(tmp_path / "lib", db=tmp_path / "r.db", jobs=1)
    with pytest.raises(UsageError, match="cannot hold"):
        adapterhub.lock(target=tmp_path / "l", wanted=Filter(), db=tmp_path / "r.db")


def test_a_name_of_any_letters_is_locked_and_found_again(tmp_path):
    adapter(tmp_path / "lib/\x1b[2J\n'; DROP TABLE records; --.safetensors", 1)
    adapterhub.index(tmp_path / "lib", db=tmp_path / "r.db", jobs=1)
    found = adapterhub.lock(target=tmp_path / "lib/l", db=tmp_path / "r.db")
    assert Lock.read((tmp_path / "lib/l").read_bytes()) == found
    assert states(tmp_path / "lib/l", tmp_path / "r.db") == ["there"]
