"""verify: what is no longer as it was recorded, and what happened to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import adapterhub
from adapterhub.errors import NotFound, UsageError
from adapterhub.registry.workers import carried_out
from tests.registry.libraries import adapter, content


@pytest.fixture
def library(tmp_path: Path) -> Path:
    root = tmp_path / "library"
    for number in range(6):
        adapter(root / f"a{number}.safetensors", number)
    return root


@pytest.fixture
def db(tmp_path: Path, library: Path) -> Path:
    adapterhub.index(library, db=tmp_path / "r.db", jobs=1)
    return tmp_path / "r.db"


def flip(path: Path, at: int = -1) -> None:
    """Changes a bit, and leaves size and time as they were."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path) -> None:
    new = path.with_name("new")
    new.write_bytes(path.read_bytes() + b"x")
    new.replace(path)


DAMAGES = {
    "rotten": flip,
    "truncated": lambda path: os.truncate(path, 100),
    "missing": Path.unlink,
    "replaced": replace,
    "changed": lambda path: path.write_bytes(path.read_bytes() + b"x"),
}


def test_what_is_as_recorded_is_said_to_be_and_nothing_is_changed(db, library, cli):
    before = content(db)
    found = adapterhub.verify(db=db)
    assert (found.checked, found.bytes, found.damages, found.waiting) == (6, size(library), [], 0)
    assert content(db) == before
    outcome = cli("verify", "--db", db)
    assert (outcome.status, outcome.out.endswith("all are as recorded\n")) == (0, True)


def size(library: Path) -> int:
    return sum(path.stat().st_size for path in library.iterdir())


@pytest.mark.parametrize("what", DAMAGES)
def test_what_happened_to_a_file_is_told(db, library, cli, what):
    DAMAGES[what](library / "a3.safetensors")
    (damage,) = adapterhub.verify(db=db).damages
    assert (damage.path, damage.what) == (str(library / "a3.safetensors"), what)
    assert cli("verify", "--db", db).status == 1


def test_a_file_that_was_only_touched_is_sound(db, library):
    os.utime(library / "a1.safetensors", ns=(1, 1))
    assert adapterhub.verify(db=db).damages == []


def test_a_file_that_became_a_pipe_is_not_opened(db, library):
    (library / "a1.safetensors").unlink()
    os.mkfifo(library / "a1.safetensors")
    assert [one.what for one in adapterhub.verify(db=db).damages] == ["unreadable"]


def test_two_processes_find_what_one_finds(db, library, monkeypatch):
    flip(library / "a0.safetensors")
    flip(library / "a5.safetensors", 700)
    monkeypatch.setattr("adapterhub.registry.workers._WORTH_PROCESSES", 0)
    two, one = adapterhub.verify(db=db, jobs=2), adapterhub.verify(db=db, jobs=1)
    assert sorted(two.damages, key=lambda damage: damage.path) == sorted(one.damages, key=lambda damage: damage.path)
    assert [Path(damage.path).name for damage in one.damages] == ["a0.safetensors", "a5.safetensors"]


def test_hard_links_are_read_once_and_named_each(tmp_path):
    first = adapter(tmp_path / "library/a.safetensors", 1)
    os.link(first, first.with_name("b.safetensors"))
    adapterhub.index(tmp_path / "library", db=tmp_path / "r.db", jobs=1)
    found = adapterhub.verify(db=tmp_path / "r.db")
    assert (found.checked, found.bytes) == (2, first.stat().st_size)
    flip(first)
    assert [one.what for one in adapterhub.verify(db=tmp_path / "r.db").damages] == ["rotten"] * 2


def test_only_what_is_named_is_read(db, library):
    flip(library / "a0.safetensors")
    assert adapterhub.verify("a1", "a2", db=db).checked == 2
    assert [one.what for one in adapterhub.verify("a0", db=db).damages] == ["rotten"]
    with pytest.raises(NotFound):
        adapterhub.verify("none", db=db)


@pytest.mark.parametrize(("sample", "many"), [(1, 1), ("4", 4), (100, 6), ("50%", 3), ("1%", 1), ("100%", 6)])
def test_a_sample_has_so_many(db, sample, many):
    assert adapterhub.verify(db=db, sample=sample).checked == many


def test_a_sample_of_those_that_are_named(db):
    assert adapterhub.verify("a1", "a2", "a3", db=db, sample=2).checked == 2


def test_a_sample_of_what_was_not_read_whole_is_empty(tmp_path, library, db):
    adapter(library / "new.safetensors", 8)
    adapterhub.index(db=db, jobs=1, hash=False)
    assert adapterhub.verify("new", db=db, sample=2).checked == 0


def test_the_same_seed_samples_the_same_and_others_something_else(db, library):
    for path in library.iterdir():
        path.unlink()
    chosen = {
        seed: tuple(one.path for one in adapterhub.verify(db=db, sample=2, seed=seed).damages) for seed in range(8)
    }
    again = {
        seed: tuple(one.path for one in adapterhub.verify(db=db, sample=2, seed=seed).damages) for seed in range(8)
    }
    assert chosen == again
    assert len(set(chosen.values())) > 1


@pytest.mark.parametrize("sample", ["0", "-1", "x", "", "%", "nan%", "inf%", "101%", "-5%", "1.5", "9" * 5000])
def test_what_is_no_sample_is_refused(db, sample):
    with pytest.raises(UsageError):
        adapterhub.verify(db=db, sample=sample)


def test_what_is_not_read_whole_yet_is_counted(tmp_path, library):
    adapterhub.index(library, db=tmp_path / "n.db", jobs=1, hash=False)
    found = adapterhub.verify(db=tmp_path / "n.db")
    assert (found.checked, found.waiting) == (0, 6)


def test_progress_is_told_in_bytes(db, library):
    told = []
    with adapterhub.watched(lambda done, expected: told.append((done, expected))):
        adapterhub.verify(db=db)
    assert (sum(done for done, _ in told), sum(expected for _, expected in told)) == (size(library), size(library))


def test_no_process_is_started_for_one_item():
    assert list(carried_out(list, [1], 2, size=1)) == [[1]]
