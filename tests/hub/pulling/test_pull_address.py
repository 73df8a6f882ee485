"""A plain address is asked without the token, only where that is safe, and what comes is counted and hashed."""

import hashlib

import pytest

import adapterhub
from adapterhub.cli import run
from adapterhub.errors import MalformedFile, RefusedInput, Unreachable, UsageError
from tests.hub.pulling.conftest import TOKEN
from tests.hub.pulling.reading_hub import COMMIT


def digest(data):
    return hashlib.sha256(data).hexdigest()


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
