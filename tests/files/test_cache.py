"""A digest is remembered for exactly the file that had it, and a cache that is absent, broken or read-only harms nothing."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from adapterhub.errors import MachineFailure
from adapterhub.files import cache

Hashed = list[Path]


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hashed:
    """What was really read; every file is worth remembering, and settled at once."""
    read: Hashed = []
    true = cache.sha256

    def noted(path: Path) -> str:
        read.append(path)
        return true(path)

    monkeypatch.setattr(cache, "sha256", noted)
    monkeypatch.setattr(cache, "WORTHWHILE", 0)
    monkeypatch.setattr(cache, "_SETTLED_NS", -1)
    monkeypatch.setenv("ADAPTERHUB_CACHE", str(tmp_path / "cache"))
    return read


def made(folder: Path, content: bytes = b"weights") -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(content)
    return path


def entries(folder: Path) -> list[Path]:
    return sorted((folder / "cache").rglob("*-*"))


def test_the_second_time_nothing_is_read(tmp_path: Path, hashed: Hashed) -> None:
    path = made(tmp_path)
    wanted = hashlib.sha256(b"weights").hexdigest()
    assert [cache.cached_sha256(path), cache.cached_sha256(path)] == [wanted, wanted]
    assert hashed == [path]


def test_content_that_changed_under_the_same_size_and_time_is_read_again(tmp_path: Path, hashed: Hashed) -> None:
    path = made(tmp_path)
    cache.cached_sha256(path)
    times = path.stat()
    path.write_bytes(b"WEIGHTS")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_mtime_ns == times.st_mtime_ns
    assert cache.cached_sha256(path) == hashlib.sha256(b"WEIGHTS").hexdigest()


def test_a_file_that_has_just_changed_is_not_remembered(
    tmp_path: Path, hashed: Hashed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(cache, "WORTHWHILE", 0)
    monkeypatch.setenv("ADAPTERHUB_CACHE", str(tmp_path / "cache"))
    cache.cached_sha256(made(tmp_path))
    assert not entries(tmp_path)


def test_a_file_that_changed_while_it_was_hashed_is_not_remembered(
    tmp_path: Path, hashed: Hashed, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path)

    def changing(path: Path) -> str:
        path.write_bytes(b"other weights")
        return "0" * 64

    monkeypatch.setattr(cache, "sha256", changing)
    cache.cached_sha256(path)
    assert not entries(tmp_path)


def test_small_files_are_hashed_each_time(tmp_path: Path, hashed: Hashed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "WORTHWHILE", 8)
    path = made(tmp_path)
    cache.cached_sha256(path)
    cache.cached_sha256(path)
    assert hashed == [path, path]
    assert not entries(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"not a digest", b"\xff" * 64, b"0" * 63, b"A" * 64])
def test_a_damaged_entry_is_none(tmp_path: Path, hashed: Hashed, damage: bytes) -> None:
    path = made(tmp_path)
    wanted = cache.cached_sha256(path)
    (entry,) = entries(tmp_path)
    entry.write_bytes(damage)
    assert cache.cached_sha256(path) == wanted
    assert entry.read_text() == wanted


def test_without_a_place_nothing_is_remembered(tmp_path: Path, hashed: Hashed, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path)
    (tmp_path / "file").touch()
    for place in ("", str(tmp_path / "file")):
        monkeypatch.setenv("ADAPTERHUB_CACHE", place)
        assert cache.cached_sha256(path) == hashlib.sha256(b"weights").hexdigest()
    assert hashed == [path, path]


def test_it_lies_in_the_cache_folder_of_the_user(
    tmp_path: Path, hashed: Hashed, monkeypatch: pytest.MonkeyPatch
) -> None:
    import platformdirs

    monkeypatch.delenv("ADAPTERHUB_CACHE")
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name, **_: tmp_path / "cache" / name)
    cache.cached_sha256(made(tmp_path))
    assert [entry.parent.parent.name for entry in entries(tmp_path)] == ["adapterhub"]


def test_a_file_that_is_not_there_is_said(tmp_path: Path, hashed: Hashed) -> None:
    with pytest.raises(MachineFailure, match="No such file"):
        cache.cached_sha256(tmp_path / "absent")


def test_what_follows_from_its_name_is_computed_once(tmp_path: Path, hashed: Hashed) -> None:
    found = iter("ab")
    assert [cache.cached_digest("kind", "name", lambda: 64 * next(found)) for _ in range(2)] == [64 * "a"] * 2
    assert cache.is_cached_digest("kind", "name")
    assert not cache.is_cached_digest("other", "name")
    assert cache.cached_digest("other", "name", lambda: 64 * next(found)) == 64 * "b"


@pytest.mark.parametrize("damage", [b"", b"not a digest", b"\xff" * 64])
def test_a_damaged_digest_is_computed_anew(tmp_path: Path, hashed: Hashed, damage: bytes) -> None:
    cache.cached_digest("kind", "name", lambda: 64 * "a")
    (tmp_path / "cache" / "kind" / "name").write_bytes(damage)
    assert not cache.is_cached_digest("kind", "name")
    assert cache.cached_digest("kind", "name", lambda: 64 * "b") == 64 * "b"


def test_without_a_place_it_is_computed_each_time(
    tmp_path: Path, hashed: Hashed, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for place in ("", str(tmp_path / "file")):
        monkeypatch.setenv("ADAPTERHUB_CACHE", place)
        assert cache.cached_digest("kind", "name", lambda: 64 * "a") == 64 * "a"
        assert not cache.is_cached_digest("kind", "name")
