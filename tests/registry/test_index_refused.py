"""index: files that are refused have a record that says why, and wait for nothing."""

from __future__ import annotations

import json

import adapterhub


def test_empty_files_are_refused_with_a_reason_and_wait_for_nothing(tmp_path):
    for name in ("empty.pt", "empty.safetensors"):
        (tmp_path / "library" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "library" / name).touch()
    done = adapterhub.index(tmp_path / "library", db=tmp_path / "r.db")
    assert (done.refused, done.waiting, done.troubles) == (2, 0, [])
    for one in adapterhub.list(db=tmp_path / "r.db"):
        assert (one.refused, one.hashed, one.sha256) == ("empty", True, None)
        assert "the file is empty" in str(one.reason)
    assert adapterhub.duplicates(db=tmp_path / "r.db").groups == []


def test_a_refused_folder_with_an_empty_part_has_the_digest_of_all(tmp_path):
    """One part is malformed, and another is empty."""
    parts = tmp_path / "library" / "model"
    parts.mkdir(parents=True)
    (parts / "a-00001-of-00002.safetensors").write_bytes(b"x" * 100)
    (parts / "a-00002-of-00002.safetensors").touch()
    index = {"weight_map": {"x": "a-00001-of-00002.safetensors", "y": "a-00002-of-00002.safetensors"}}
    (parts / "a.safetensors.index.json").write_text(json.dumps(index))
    done = adapterhub.index(tmp_path / "library", db=tmp_path / "r.db")
    assert (done.waiting, done.troubles) == (0, [])
