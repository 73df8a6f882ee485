"""Civitai is asked for a hash once, politely, and only if that was asked for; what it answers becomes facts."""

import hashlib
import json

import pytest

import adapterhub
from adapterhub.cli import run
from adapterhub.errors import Unreachable, UsageError
from adapterhub.hub.civitai import Civitai
from adapterhub.registry import lookups
from tests.hub.pulling.conftest import TOKEN
from tests.registry.libraries import adapter


def version(path, **changes):
    """An answer of the shape that Civitai gives."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest().upper()
    return {
        "id": 12, "modelId": 7, "name": "v1", "baseModel": "SD 1.5", "trainedWords": ["fox style"], "description": "<p>Ok</p>",
        "model": {"name": "Fox", "type": "LORA", "nsfw": False, "poi": False},
        "files": [
            {"name": "other.zip", "primary": True, "hashes": {"SHA256": "0" * 64}},
            {"name": "fox.safetensors", "sizeKB": 1.5, "hashes": {"SHA256": digest, "AutoV2": digest[:10]}},
        ],
        "images": [{"url": "https://image.example/1.png", "nsfwLevel": 1}],
    } | changes  # fmt: skip


@pytest.fixture
def civitai(elsewhere, hub, monkeypatch):
    monkeypatch.setenv("ADAPTERHUB_CIVITAI_ENDPOINT", elsewhere.url)
    monkeypatch.setattr("adapterhub.hub.civitai.PAUSE", 0)
    return elsewhere


def answers(civitai, path, document, status=200, **headers):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    civitai.answers[f"/api/v1/model-versions/by-hash/{digest}"] = (status, headers, text)


def facts(path, db):
    found = adapterhub.show(str(path), db=db).facts
    return {name: one.value for name, told in found.items() for one in told if one.origin == "civitai"}


def test_an_answer_becomes_facts(civitai, tmp_path):
    path, db = adapter(tmp_path / "lib/fox.safetensors"), tmp_path / "r.db"
    answers(civitai, path, version(path))
    assert run(["index", str(tmp_path / "lib"), "--db", str(db), "--civitai"]) == 0
    told = facts(path, db)
    assert (told["title"], told["base_model"], told["civitai_model"], told["civitai_version"]) == (
        "Fox",
        "SD 1.5",
        7,
        12,
    )
    assert told["words"] == ["fox style"]
    assert told["hash.sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [record.path for record in adapterhub.search("fox style", db=db)] == [str(path)]


def test_nobody_is_asked_unless_that_is_wanted(civitai, tmp_path):
    adapter(tmp_path / "lib/fox.safetensors")
    assert run(["index", str(tmp_path / "lib"), "--db", str(tmp_path / "r.db")]) == 0
    assert civitai.seen == []


def test_each_hash_is_asked_for_once_and_what_is_not_known_again_after_a_month(civitai, tmp_path, monkeypatch):
    one, other = adapter(tmp_path / "lib/a.safetensors", 1), adapter(tmp_path / "lib/b.safetensors", 2)
    answers(civitai, one, version(one))
    answers(civitai, other, b"{}", status=404)
    ask = Civitai().by_hash
    first = adapterhub.index(tmp_path / "lib", db=tmp_path / "r.db", ask=ask)
    again = adapterhub.index(tmp_path / "lib", db=tmp_path / "r.db", ask=ask)
    assert [(done.asked, done.told) for done in (first, again)] == [(2, 1), (0, 1)]
    monkeypatch.setattr(lookups, "AGAIN", -lookups.AGAIN)
    assert adapterhub.index(tmp_path / "lib", db=tmp_path / "r.db", ask=ask).asked == 1
    assert len(civitai.seen) == 3
    assert TOKEN not in str(civitai.seen)


@pytest.mark.parametrize("document", [
    b"", b"[]", b"null", b"not json", b"\xff", b"{" * 100_000, {"files": 3}, {"modelId": 1, "files": [None, {"hashes": []}]},
    {"modelId": 1, "trainedWords": 5, "files": [{"hashes": {"SHA256": "0" * 64}}]},
])  # fmt: skip
def test_an_answer_that_is_none_tells_nothing(civitai, tmp_path, document):
    path = adapter(tmp_path / "lib/fox.safetensors")
    answers(civitai, path, document)
    done = adapterhub.index(tmp_path / "lib", db=tmp_path / "r.db", ask=Civitai().by_hash)
    assert (done.told, len(done.troubles)) == (0, 1)
    assert facts(path, tmp_path / "r.db") == {}


def test_a_side_car_stands_before_an_answer(civitai, tmp_path):
    path = adapter(tmp_path / "lib/fox.safetensors")
    path.with_suffix(".civitai.info").write_text(json.dumps(version(path) | {"trainedWords": ["mine"]}))
    answers(civitai, path, version(path))
    adapterhub.index(tmp_path / "lib", db=tmp_path / "r.db", ask=Civitai().by_hash)
    assert facts(path, tmp_path / "r.db")["words"] == ["mine"]


def test_a_server_that_fails_is_left_in_peace_after_three_questions(civitai, tmp_path):
    for seed in range(6):
        answers(civitai, adapter(tmp_path / f"lib/{seed}.safetensors", seed), b"", status=500)
    done = adapterhub.index(tmp_path / "lib", db=tmp_path / "r.db", ask=Civitai().by_hash)
    assert (done.asked, done.told, len(done.troubles)) == (3, 0, 3)
    assert len(civitai.seen) == 9


def test_questions_are_apart(civitai):
    slept = []
    client = Civitai(pause=2.0, sleep=slept.append)
    civitai.answers["/api/v1/model-versions/by-hash/" + "a" * 64] = (404, {}, b"")
    for _ in range(3):
        assert client.by_hash("a" * 64) is None
    assert [round(seconds) for seconds in slept] == [2, 4]


def test_a_long_wait_is_not_waited_for(civitai):
    civitai.answers["/api/v1/model-versions/by-hash/" + "a" * 64] = (429, {"Retry-After": "3600"}, b"")
    with pytest.raises(Unreachable, match="patience"):
        Civitai().by_hash("a" * 64)
    assert len(civitai.seen) == 1


def test_only_hashes_are_asked_for_and_only_over_https():
    with pytest.raises(UsageError):
        Civitai().by_hash("../../x")
    with pytest.raises(UsageError, match="encrypted"):
        Civitai("http://civitai.example")
