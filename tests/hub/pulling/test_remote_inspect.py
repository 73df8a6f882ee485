"""What is remote is read like what is local: the same answer, from a few requests."""

import json
from pathlib import Path

import pytest

import adapterhub
from adapterhub import files
from adapterhub.cli import run
from adapterhub.errors import MalformedFile, NeedsDownload, NoAccess, NotFound, Unreachable, UsageError
from tests.hub.pulling.conftest import TOKEN
from tests.hub.pulling.reading_hub import COMMIT

FIXTURES = Path(__file__).parents[3] / "fixtures"


def fixtures():
    """Every ninth of the golden files, of all containers."""
    ends = (".safetensors", ".pt", ".bin", ".png")
    golden = (path for path in FIXTURES.rglob("*") if FIXTURES / "learning" not in path.parents)
    return sorted(path for path in golden if path.suffix in ends)[::9]


@pytest.mark.parametrize("path", fixtures(), ids=lambda path: path.name)
def test_a_remote_file_is_what_it_is_here(hub, path):
    hub.repos["alice/fox"] = {path.name: path.read_bytes()}
    here = adapterhub.inspect(path)
    there = adapterhub.inspect(f"hf://alice/fox/{path.name}")
    assert there.path == f"hf://alice/fox/{path.name}"
    assert there.model_copy(update={"path": here.path}) == here
    assert len(hub.seen) <= 8


def test_a_peft_folder_is_what_it_is_here(hub, tmp_path):
    folder = next(
        path.parent
        for path in FIXTURES.rglob("adapter_config.json")
        if (path.parent / "adapter_model.safetensors").exists()
    )
    hub.repos["alice/fox"] = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    here, there = adapterhub.inspect(folder), adapterhub.inspect("hf://alice/fox")
    assert there.layout == here.layout == "peft"
    assert there.model_copy(update={"path": here.path}) == here


def test_a_web_address_of_the_hub_and_a_plain_one_are_read_too(hub, style):
    hub.repos["alice/fox"] = {"style.safetensors": style.read_bytes()}
    hub.repos["plain"] = {"/d/style.safetensors": style.read_bytes()}
    here = adapterhub.inspect(style)
    for address in (
        f"{hub.url}/alice/fox/blob/main/style.safetensors",
        f"{hub.url}/alice/fox/resolve/{COMMIT}/style.safetensors",
    ):
        assert adapterhub.inspect(address).layout == here.layout


def test_a_plain_address_is_asked_without_the_token(hub, elsewhere, style):
    elsewhere.repos["plain"] = {"/d/style.safetensors": style.read_bytes()}
    found = adapterhub.inspect(f"{elsewhere.url}/d/style.safetensors?token=secret")
    assert found.path == f"{elsewhere.url}/d/style.safetensors"
    assert found.layout == adapterhub.inspect(style).layout
    assert elsewhere.seen
    assert not any("Authorization" in headers or "authorization" in headers for _, headers in elsewhere.seen)


def test_the_token_goes_to_the_endpoint_and_not_with_a_redirect(hub, elsewhere, style):
    hub.repos["alice/fox"] = {"style.safetensors": style.read_bytes()}
    elsewhere.repos["plain"] = {"/cdn/style.safetensors": style.read_bytes()}
    hub.answers[f"/alice/fox/resolve/{COMMIT}/style.safetensors"] = (
        302,
        {"Location": f"{elsewhere.url}/cdn/style.safetensors"},
        b"",
    )
    assert adapterhub.inspect("hf://alice/fox").kind == "lora"
    assert {headers.get("authorization", headers.get("Authorization")) for _, headers in hub.seen} == {
        f"Bearer {TOKEN}"
    }
    assert elsewhere.seen
    assert TOKEN not in str(elsewhere.seen)


def test_a_renamed_repository_is_followed(hub, style):
    hub.repos["alice/new"] = {"style.safetensors": style.read_bytes()}
    hub.moved["alice/old"] = "alice/new"
    assert adapterhub.inspect("hf://alice/old").kind == "lora"


ERRORS = [
    ((404, {"X-Error-Code": "RepoNotFound"}), NotFound, 1),
    ((401, {}), NoAccess, 5),
    ((401, {"X-Error-Message": "Invalid credentials in Authorization header"}), NoAccess, 5),
    ((403, {"X-Error-Code": "GatedRepo"}), NoAccess, 5),
    ((404, {"X-Error-Code": "RevisionNotFound"}), NotFound, 1),
    ((403, {"X-Error-Message": "Access to this resource is disabled."}), NoAccess, 5),
    ((400, {}), UsageError, 2),
    ((403, {}), NoAccess, 5),
    ((429, {}), Unreachable, 5),
    ((500, {}), Unreachable, 5),
    ((503, {}), Unreachable, 5),
]


@pytest.mark.parametrize(("answer", "kind", "status"), ERRORS)
def test_what_the_hub_refuses_has_a_message_and_a_status(hub, capsys, answer, kind, status):
    hub.answers["/api/models/alice/fox"] = (*answer, b'{"error": "<script>"}')
    with pytest.raises(kind) as caught:
        adapterhub.inspect("hf://alice/fox")
    assert caught.value.mend
    assert "hf://alice/fox" in caught.value.message
    assert run(["inspect", "hf://alice/fox", "--json"]) == status
    told = capsys.readouterr()
    assert told.out == ""
    assert "Traceback" not in told.err
    assert TOKEN not in told.err


@pytest.mark.parametrize("address", ["hf://", "hf://alice", "hf://../../x", "hf://datasets/alice/fox", "hf://a/b/../c", "https://", "http://example.org/x",
                                     "https://user:word@example.org/x", "https://[::1/x", "hf://a/b@\x1b[0m"])  # fmt: skip
def test_what_is_no_address_is_refused_before_anything_is_asked(hub, address):
    with pytest.raises((UsageError, NotFound)):
        adapterhub.inspect(address)


def test_offline_mode_asks_nobody(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Unreachable, match="offline"):
        adapterhub.inspect("hf://alice/fox")
    assert hub.seen == []


def test_a_server_that_is_not_there_is_unreachable(hub):
    with pytest.raises(Unreachable):
        adapterhub.inspect("http://127.0.0.1:9/x.safetensors")


def test_a_file_that_changes_between_two_parts_is_refused(hub, elsewhere):
    first = (300_000).to_bytes(8, "little") + b"{" + b" " * 300_000
    path = "/d/x.safetensors"
    part = lambda data, etag: (206, {"ETag": etag, "Content-Range": f"bytes 0-{len(data) - 1}/200000000"}, data)  # noqa: E731
    elsewhere.answers[path] = [part(first[: 1 << 18], "one"), part(first[:10], "two")]
    with pytest.raises(MalformedFile, match="changed"):
        adapterhub.inspect(elsewhere.url + path)


def test_digests_of_what_is_remote_are_not_computed(hub):
    with pytest.raises(NeedsDownload, match="pull"):
        adapterhub.inspect("hf://alice/fox", hash=True)
    assert hub.seen == []


def test_a_server_without_ranges_gives_the_header_from_the_beginning(hub, elsewhere, style):
    elsewhere.ranges = False
    elsewhere.repos["plain"] = {"/style.safetensors": style.read_bytes()}
    assert adapterhub.inspect(f"{elsewhere.url}/style.safetensors").kind == "lora"


def test_validate_says_that_it_read_no_value(hub, style, capsys):
    hub.repos["alice/fox"] = {"style.safetensors": style.read_bytes()}
    assert run(["validate", "hf://alice/fox", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"][-1]["code"] == "values-not-read"
    assert files.read(style).path == style
