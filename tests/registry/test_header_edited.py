"""A file whose header was edited is still found by what it was."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import adapterhub
from adapterhub import files
from adapterhub.registry.editing import READ_WHOLE
from tests.registry.libraries import HEAD, adapter


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


@pytest.fixture
def lora(tmp_path: Path, db: Path) -> Path:
    path = adapter(tmp_path / "files" / "fox.safetensors", ss_network_dim="4")
    adapterhub.metadata(path, set={"room": "x" * 300})
    adapterhub.metadata(path, unset=["room"])
    adapterhub.index(path.parent, db=db)
    return path


def edit(cli, path: Path, db: Path, *arguments: str) -> None:
    assert cli("metadata", path, "--db", db, *arguments).status == 0


@pytest.mark.parametrize("text", ["short", "x" * 9000], ids=["in place", "anew"])
def test_its_former_sha256_finds_it_and_what_covers_the_data_is_kept(cli, lora, db, text):
    before = adapterhub.show("fox", db=db)
    edit(cli, lora, db, "--set", f"modelspec.title={text}")
    after = adapterhub.show(before.sha256, db=db)
    assert (after.id, after.fingerprint, after.hashed) == (before.id, before.fingerprint, True)
    assert after.sha256 == files.sha256(lora) != before.sha256
    for name in ("autov3", "sshs_model_hash"):
        assert after.files[0].hashes[name] == before.files[0].hashes[name]
    assert after.metadata["modelspec.title"] == text
    assert adapterhub.show(before.files[0].hashes["autov2"], db=db).id == before.id
    assert adapterhub.show(after.sha256, db=db).id == before.id


def test_every_former_one_finds_it_also_after_it_was_indexed_moved_and_exported(cli, lora, db, tmp_path):
    formers = []
    for number in range(3):
        formers.append(files.sha256(lora))
        edit(cli, lora, db, "--set", f"ss_epoch={number}")
    adapterhub.index(lora.parent, db=db)
    moved = lora.rename(lora.with_name("moved.safetensors"))
    adapterhub.index(lora.parent, db=db)
    adapterhub.export(tmp_path / "all.jsonl", db=db)
    adapterhub.import_(tmp_path / "all.jsonl", db=tmp_path / "other.db")
    for where in (db, tmp_path / "other.db"):
        for former in formers:
            assert adapterhub.show(former, db=where).path == str(moved)
    told = adapterhub.show("moved", db=db).facts["former_sha256"]
    assert [(one.value, one.origin) for one in told] == [(formers[::-1], "adapterhub")]
    assert {one.severity for one in adapterhub.doctor(db=db).findings} <= {"note", "warning"}


def test_a_large_file_waits_for_index_with_what_is_known_of_its_data(lora, db):
    rank, head = READ_WHOLE // (2 * 640 * 2) + 1, HEAD.format(1, "attn1_to_q")
    tensors = {"lora_down.weight": np.zeros((rank, 640), "f2"), "lora_up.weight": np.zeros((640, rank), "f2")}
    room = {"ss_note": "x" * 200}
    save_file({f"{head}.{name}": tensor for name, tensor in tensors.items()}, lora, metadata=room)
    adapterhub.index(db=db)
    before = adapterhub.show("fox", db=db)
    adapterhub.record_edit(adapterhub.metadata(lora, set={"ss_note": "x"}), db=db)
    after = adapterhub.show(before.sha256, db=db)
    assert (after.hashed, after.sha256, after.fingerprint) == (False, None, before.fingerprint)
    assert after.files[0].hashes == {name: before.files[0].hashes[name] for name in ("autov3", "sshs_model_hash")}
    adapterhub.record_edit(adapterhub.metadata(lora, set={"lora_adapter_metadata": "{}"}), db=db)
    assert adapterhub.show(before.sha256, db=db).fingerprint is None
    adapterhub.index(db=db)
    assert adapterhub.show(before.sha256, db=db).fingerprint == before.fingerprint


def test_hard_links_share_an_edit_in_place_and_not_one_that_is_written_anew(cli, lora, db):
    other = lora.with_name("other.safetensors")
    other.hardlink_to(lora)
    adapterhub.index(lora.parent, db=db)
    before = files.sha256(lora)
    edit(cli, lora, db, "--set", "a=1")
    for name in ("fox", "other"):
        assert adapterhub.show(name, db=db).facts["former_sha256"][0].value == [before]
    between = files.sha256(lora)
    edit(cli, lora, db, "--set", f"a={'1' * 9000}")
    assert adapterhub.show("fox", db=db).facts["former_sha256"][0].value == [between, before]
    assert adapterhub.show("other", db=db).facts["former_sha256"][0].value == [before]
    assert adapterhub.show("other", db=db).sha256 == between


def test_without_a_registry_or_a_record_nothing_is_made(cli, tmp_path, db, lora, monkeypatch):
    stranger = adapter(tmp_path / "elsewhere" / "stranger.safetensors", 1)
    edit(cli, stranger, db, "--set", "a=1")
    assert [one.name for one in adapterhub.list(db=db)] == ["fox"]
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("ADAPTERHUB_DB", raising=False)
    assert json.loads(cli("metadata", stranger, "--set", "a=2", "--json").out)["written"] == "in-place"
    assert not (tmp_path / "data").exists()
