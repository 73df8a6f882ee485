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
    Unreachable,
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


def test_a_pipeline_comes_without_the_other_formats(hub, fox, tmp_path):
    hub.repos["alice/model"] = {
        "model_index.json": b"{}", "unet/config.json": b"{}", "unet/a.safetensors": fox, "unet/a.fp16.safetensors": fox,
        "unet/a.bin": fox, "vae/b.bin": fox, "README.md": b"", ".git/x.json": b"{}",
    }  # fmt: skip
    done = adapterhub.pull("alice/model", tmp_path / "out")
    assert sorted(row.name for row in done.files) == [
        "model_index.json",
        "unet/a.safetensors",
        "unet/config.json",
        "vae/b.bin",
    ]
    assert (tmp_path / "out/unet/a.safetensors").read_bytes() == fox
    assert done.unread


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


def test_the_token_is_written_nowhere(hub, fox, tmp_path, capsys):
    assert run(["pull", "alice/fox", "-o", str(tmp_path / "out"), "--db", str(tmp_path / "r.db"), "--debug"]) == 0
    hub.answers["/api/models/alice/fox"] = (403, {}, b"")
    assert run(["pull", "alice/fox", "--debug", "--json"]) == 5
    told = capsys.readouterr()
    assert TOKEN not in told.out + told.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_a_plain_address_is_streamed_named_and_hashed(hub, elsewhere, style, tmp_path):
    data = style.read_bytes()
    elsewhere.repos["plain"] = {"/d/fox lora.safetensors": data}
    done = adapterhub.pull(f"{elsewhere.url}/d/fox%20lora.safetensors?token=secret", tmp_path / "out")
    assert done.files[0].sha256 == digest(data)
    assert (tmp_path / "out/fox lora.safetensors").read_bytes() == data
    assert "secret" not in done.model_dump_json()
    assert TOKEN not in str(elsewhere.seen)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["fox lora.safetensors"]


@pytest.mark.parametrize(("disposition", "name"), [
    ('attachment; filename="../../evil.safetensors"', "evil.safetensors"),
    ("attachment; filename*=UTF-8''f%C3%B6x.safetensors", "föx.safetensors"),
    ('attachment; filename="con"', "_con"),
    ('attachment; filename="..\\\\..\\\\x.safetensors"', "x.safetensors"),
    ("attachment; filename*=nonsense''x", "x"),
])  # fmt: skip
def test_the_name_that_a_server_gives_is_made_safe(hub, elsewhere, style, tmp_path, disposition, name):
    data = style.read_bytes()
    elsewhere.answers["/1"] = [
        (206, {"Content-Range": f"bytes 0-{len(data) - 1}/{len(data)}", "Content-Disposition": disposition}, data),
        (200, {}, data),
    ]
    done = adapterhub.pull(f"{elsewhere.url}/1", tmp_path / "out")
    assert done.files[0].name == name
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("cache", "style.safetensors")] == ["out"]


def test_a_redirect_to_another_origin_does_not_take_the_token_along(hub, elsewhere, style, tmp_path):
    data = style.read_bytes()
    elsewhere.repos["plain"] = {"/x.safetensors": data}
    hub.answers["/go"] = (302, {"Location": f"{elsewhere.url}/x.safetensors"}, b"")
    hub.repos["alice/fox"] = {"x.safetensors": data}
    hub.answers[f"/alice/fox/resolve/{COMMIT}/x.safetensors"] = (
        302, {"Location": f"{elsewhere.url}/x.safetensors", "X-Repo-Commit": COMMIT, "X-Linked-ETag": f'"{digest(data)}"', "X-Linked-Size": str(len(data))}, b"",
    )  # fmt: skip
    adapterhub.pull("alice/fox", tmp_path / "out")
    assert (tmp_path / "out/x.safetensors").read_bytes() == data
    assert TOKEN in str(hub.seen)
    assert elsewhere.seen
    assert TOKEN not in str(elsewhere.seen)


@pytest.mark.parametrize(
    "location", ["http://example.org/x", "file:///etc/passwd", "ftp://x/y", "//user:pass@127.0.0.1/x"]
)
def test_a_redirect_that_may_not_be_followed_is_refused(hub, elsewhere, tmp_path, location):
    elsewhere.answers["/x"] = (302, {"Location": location}, b"")
    with pytest.raises(RefusedInput):
        adapterhub.pull(f"{elsewhere.url}/x", tmp_path)


def test_redirects_in_circles_end(hub, elsewhere, tmp_path):
    elsewhere.answers["/x"] = (302, {"Location": "/x"}, b"")
    with pytest.raises(RefusedInput, match="without end"):
        adapterhub.pull(f"{elsewhere.url}/x", tmp_path)


@pytest.mark.parametrize("cut", [0, 9, 1000])
def test_an_answer_that_breaks_off_leaves_nothing(hub, elsewhere, style, tmp_path, cut):
    elsewhere.repos["plain"] = {"/x.safetensors": style.read_bytes()}
    elsewhere.cut = cut
    with pytest.raises((Unreachable, RefusedInput)):
        adapterhub.pull(f"{elsewhere.url}/x.safetensors", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*") if (tmp_path / "out").exists() else [])


def test_a_body_beyond_the_limit_is_stopped(hub, elsewhere, style, tmp_path):
    data = style.read_bytes()
    elsewhere.ranges = False
    elsewhere.repos["plain"] = {"/x.safetensors": data}
    with pytest.raises(RefusedInput, match="limit"):
        adapterhub.pull(f"{elsewhere.url}/x.safetensors", tmp_path / "out", max_size=len(data) - 1)
    assert not list((tmp_path / "out").glob("*"))


def test_a_page_instead_of_a_model_is_refused_before_it_is_downloaded(hub, elsewhere, tmp_path):
    elsewhere.repos["plain"] = {"/x.safetensors": b"<!doctype html><p>Log in"}
    with pytest.raises(MalformedFile, match="HTML"):
        adapterhub.pull(f"{elsewhere.url}/x.safetensors", tmp_path / "out")
    assert len(elsewhere.seen) == 1


@pytest.mark.parametrize(("status", "told"), [(401, 5), (403, 5), (404, 1), (429, 5), (500, 5), (503, 5), (418, 5)])
def test_what_a_server_refuses_has_a_status(hub, elsewhere, tmp_path, status, told):
    elsewhere.answers["/x"] = (status, {"Retry-After": "99999999"}, b"")
    assert run(["pull", f"{elsewhere.url}/x", "-o", str(tmp_path / "out")]) == told
    assert not (tmp_path / "out").exists()


def test_a_server_that_is_busy_is_asked_again(hub, elsewhere, style, tmp_path):
    data = style.read_bytes()
    part = (206, {"Content-Range": f"bytes 0-{len(data) - 1}/{len(data)}"}, data)
    elsewhere.answers["/x.safetensors"] = [(503, {}, b""), (429, {"Retry-After": "0"}, b""), part, (200, {}, data)]
    assert adapterhub.pull(f"{elsewhere.url}/x.safetensors", tmp_path).files[0].size == len(data)


def test_open_connections_are_refused_unless_allowed(tmp_path):
    with pytest.raises(UsageError, match="not encrypted"):
        adapterhub.pull("http://example.org/x.safetensors", tmp_path)


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
