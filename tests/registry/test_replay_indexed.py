"""replay of files that were indexed, and not recorded while they were written: their headers tell no name of theirs."""

from __future__ import annotations

import pytest

import adapterhub
from adapterhub import embeddings
from tests.registry.libraries import adapter, embedding


@pytest.fixture
def db(tmp_path):
    return tmp_path / "r.db"


def _resized(folder):
    adapterhub.resize(adapter(folder / "a.safetensors", 1), folder / "made.safetensors", rank=1)


def _scaled(folder):
    adapterhub.scale(adapter(folder / "a.safetensors", 1), folder / "made.safetensors", 0.3, into="weights")


def _combined(folder):
    twins = [adapter(folder / f"{name}.safetensors", seed) for seed, name in enumerate("ab")]
    adapterhub.combine(twins, folder / "made.safetensors")


def _embedding(folder):
    words = [embedding(folder / "one.safetensors"), embedding(folder / "other.safetensors")]
    embeddings.merge(words, folder / "made.safetensors", token="both", method="concat")


def _peft(folder):
    adapterhub.convert(adapter(folder / "a.safetensors", 1), folder / "made", to="peft")


@pytest.mark.parametrize(
    "make", [_resized, _scaled, _combined, _embedding, _peft], ids=lambda made: made.__name__.removeprefix("_")
)
def test_what_was_only_indexed_is_made_again_to_the_same_hash(make, tmp_path, db):
    make(tmp_path / "library")
    adapterhub.index(tmp_path / "library", db=db)
    again = adapterhub.replay("made", tmp_path / "again", db=db)
    assert (again.same, again.found) == (True, again.wanted)
    assert (tmp_path / "again").exists()


def test_another_result_is_not_blamed_on_the_running_version(cli, tmp_path, db):
    _resized(tmp_path)
    (tmp_path / "made.safetensors").rename(tmp_path / "renamed.safetensors")
    adapterhub.index(tmp_path, db=db)
    out = cli("replay", "renamed", "--db", db)
    assert out.status == 1
    assert "another: this version made it too" in out.out
