"""What is pulled was looked at before, is what the Hub says, and reaches its folder whole or not at all."""

import hashlib
import json

import pytest

import adapterhub
from adapterhub.cli import run
from adapterhub.errors import (
    AdapterhubError,
    MalformedFile,
    NotFound,
    OutputExists,
    RefusedInput,
    UsageError,
)
from tests.hub.pulling.conftest import TOKEN
from tests.hub.pulling.reading_hub import COMMIT


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def fox(hub, style):
    data = style.read_bytes()
    hub.repos["alice/fox"] = {
        "pytorch_lora_weights.safetensors": data,
        "README.md": b"# Fox",
        "other.safetensors": data,
    }
    return data


def test_an_adapter_comes_into_the_folder_of_its_repository(hub, fox, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = adapterhub.pull("alice/fox")
    (row,) = done.files
    assert (done.repo, done.revision, row.name) == ("alice/fox", COMMIT, "pytorch_lora_weights.safetensors")
    assert (row.size, row.sha256) == (len(fox), digest(fox))
    assert (tmp_path / "fox/pytorch_lora_weights.safetensors").read_bytes() == fox
    assert done.inspection.kind == "lora"


@pytest.mark.parametrize(
    "source", ["alice/fox", "hf://alice/fox", "hf://alice/fox@main", "{url}/alice/fox", "{url}/alice/fox/tree/main"]
)
def test_every_way_to_name_a_repository(hub, fox, tmp_path, source):
    done = adapterhub.pull(source.format(url=hub.url), tmp_path, dry_run=True)
    assert done.dry_run
    assert [row.name for row in done.files] == ["pytorch_lora_weights.safetensors"]


def test_the_header_is_read_before_anything_is_downloaded(hub, fox, tmp_path):
    seen = []
    adapterhub.pull(
        "alice/fox",
        tmp_path / "out",
        announce=lambda told: seen.append((told.inspection.layout, list((tmp_path / "out").glob("*")))),
    )
    assert seen == [(adapterhub.inspect(tmp_path / "out/pytorch_lora_weights.safetensors").layout, [])]


def test_a_dry_run_downloads_nothing(hub, fox, tmp_path):
    adapterhub.pull("alice/fox", tmp_path / "out", dry_run=True)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "cache").exists()


def test_what_is_there_is_not_replaced_without_force(hub, fox, tmp_path):
    there = tmp_path / "pytorch_lora_weights.safetensors"
    there.write_bytes(b"mine")
    with pytest.raises(OutputExists):
        adapterhub.pull("alice/fox", tmp_path)
    assert there.read_bytes() == b"mine"
    adapterhub.pull("alice/fox", tmp_path, force=True)
    assert there.read_bytes() == fox


def test_a_copy_is_its_own_file_and_a_link_is_that_of_the_cache(hub, fox, tmp_path):
    adapterhub.pull("alice/fox", tmp_path / "copy")
    adapterhub.pull("alice/fox", tmp_path / "link", link=True)
    name = "pytorch_lora_weights.safetensors"
    assert (tmp_path / "copy" / name).stat().st_nlink == 1
    assert (tmp_path / "link" / name).stat().st_nlink == 2


def test_several_files_are_listed_and_one_can_be_said(hub, fox, tmp_path):
    hub.repos["alice/many"] = {"a.safetensors": fox, "b.safetensors": fox}
    with pytest.raises(UsageError, match=r"a\.safetensors.*b\.safetensors"):
        adapterhub.pull("alice/many", tmp_path)
    assert adapterhub.pull("alice/many", tmp_path, file="b.safetensors").files[0].name == "b.safetensors"
    with pytest.raises(NotFound, match=r"c\.safetensors"):
        adapterhub.pull("alice/many", tmp_path, file="c.safetensors")


def test_the_two_files_of_peft_come_together(hub, fox, tmp_path):
    hub.repos["alice/peft"] = {"adapter_model.safetensors": fox, "adapter_config.json": b"{}", "README.md": b""}
    adapterhub.pull("alice/peft", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_a_file_that_is_not_what_the_hub_says_is_refused_and_not_kept(hub, fox, tmp_path, monkeypatch):
    name = "pytorch_lora_weights.safetensors"
    data = fox[:-1] + b"?"
    headers = {"ETag": f'"{digest(fox)}"', "X-Repo-Commit": COMMIT}
    path = f"/alice/fox/resolve/{COMMIT}/{name}"
    whole = (206, headers | {"Content-Range": f"bytes 0-{len(data) - 1}/{len(data)}"}, data)
    hub.answers[path] = [whole, (200, headers, data), (200, headers, data), (200, headers, data)]
    with pytest.raises(MalformedFile, match="SHA-256"):
        adapterhub.pull("alice/fox", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*") if (tmp_path / "out").exists() else [])
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.read_bytes() == data]


@pytest.mark.parametrize(
    "name",
    ["../evil.safetensors", "/etc/evil.safetensors", "a\\..\\b.safetensors", "nul.safetensors", "x\n.safetensors"],
)
def test_a_name_that_leads_out_is_refused_before_anything_is_downloaded(hub, fox, tmp_path, name):
    hub.repos["alice/evil"] = {name: fox}
    with pytest.raises(AdapterhubError):
        adapterhub.pull("alice/evil", tmp_path / "out")
    with pytest.raises(AdapterhubError):
        adapterhub.pull("alice/evil", tmp_path / "out", file=name)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "cache").exists()


def test_the_size_and_the_digest_that_are_wanted_are_asked_first(hub, fox, tmp_path):
    with pytest.raises(RefusedInput, match="limit"):
        adapterhub.pull("alice/fox", tmp_path / "out", max_size=100)
    with pytest.raises(MalformedFile, match="SHA-256"):
        adapterhub.pull("alice/fox", tmp_path / "out", sha256="0" * 64)
    with pytest.raises(UsageError):
        adapterhub.pull("alice/fox", tmp_path / "out", sha256="123")
    assert not (tmp_path / "cache").exists()


def test_the_registry_says_before_downloading_that_it_has_the_file(hub, fox, style, tmp_path, capsys):
    db = tmp_path / "registry.db"
    adapterhub.index(style, db=db)
    assert run(["pull", "alice/fox", "-o", str(tmp_path / "out"), "--db", str(db), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["known"] == [str(style)]


def test_what_was_pulled_is_in_the_registry_with_its_origin(hub, fox, tmp_path, capsys):
    db, out = tmp_path / "registry.db", tmp_path / "out"
    assert run(["pull", "alice/fox", "-o", str(out), "--db", str(db)]) == 0
    told = capsys.readouterr()
    assert told.out.strip() == str(out / "pytorch_lora_weights.safetensors")
    found = adapterhub.show(str(out / "pytorch_lora_weights.safetensors"), db=db)
    said = {field: [(one.value, one.origin) for one in told] for field, told in found.facts.items()}
    assert said["repository"] == [("alice/fox", "pulled")]
    assert said["revision"] == [(COMMIT, "pulled")]


def test_a_pair_of_peft_is_one_record_and_its_neighbours_have_another_origin(hub, style, tmp_path):
    done = adapterhub.convert(style, tmp_path / "peft", to="peft", digests=False)
    made = {path.name: path.read_bytes() for path in (tmp_path / "peft").rglob("*") if path.is_file()}
    assert sorted(made) == ["adapter_config.json", "adapter_model.safetensors"]
    hub.repos["alice/pair"] = made
    db, out = tmp_path / "registry.db", tmp_path / "out"
    out.mkdir()
    (out / "neighbour.safetensors").write_bytes(style.read_bytes())
    assert run(["pull", "alice/pair", "-o", str(out), "--db", str(db)]) == 0
    found = {one.name: adapterhub.show(one.path, db=db) for one in adapterhub.list(db=db)}
    (pair,) = (one for one in found.values() if one.layout == "peft")
    assert (pair.fingerprint, pair.facts["repository"][0].value) == (
        adapterhub.inspect(style, hash=True).fingerprint, "alice/pair")  # fmt: skip
    assert done.exactness == "bit-exact"
    assert "repository" not in found["neighbour"].facts


def test_the_token_is_written_nowhere(hub, fox, tmp_path, capsys):
    assert run(["pull", "alice/fox", "-o", str(tmp_path / "out"), "--db", str(tmp_path / "r.db"), "--debug"]) == 0
    hub.answers["/api/models/alice/fox"] = (403, {}, b"")
    assert run(["pull", "alice/fox", "--debug", "--json"]) == 5
    told = capsys.readouterr()
    assert TOKEN not in told.out + told.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_the_hub_is_searched_for_adapters_of_a_model(hub, capsys):
    row = {"id": "alice/fox", "tags": ["lora", "base_model:sdxl/base", "base_model:adapter:sdxl/base", "\x1b[2J"], "downloads": 7, "likes": 1,
           "library_name": "diffusers", "gated": False, "private": False, "lastModified": "2026-01-02T03:04:05.000Z"}  # fmt: skip
    hub.answers["/api/models"] = (200, {"Content-Type": "application/json"}, json.dumps([row]).encode())
    assert run(["search", "fox", "--hub", "--base-model", "sdxl/base", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["found"]
    assert (found["repo"], found["relation"], found["base_models"], found["downloads"]) == (
        "alice/fox",
        "adapter",
        ["sdxl/base"],
        7,
    )
    assert "filter=base_model%3Aadapter%3Asdxl%2Fbase" in hub.seen[-1][0]
    assert run(["search", "fox", "--hub"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    hub.answers["/api/models"] = (200, {"Content-Type": "application/json"}, b"[]")
    assert run(["search", "fox", "--hub"]) == 1


def test_a_registry_that_cannot_be_asked_stops_a_pull_before_it_begins(hub, fox, tmp_path):
    assert run(["pull", "alice/fox", "-o", str(tmp_path / "out"), "--db", str(tmp_path)]) == 2
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "cache").exists()
