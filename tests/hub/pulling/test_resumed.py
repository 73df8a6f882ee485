"""A download that breaks off is gone on with, by a server that can, of the same version; else it is begun anew, or refused."""

import hashlib

import pytest

import adapterhub
from adapterhub.errors import MalformedFile, RefusedInput, Unreachable
from adapterhub.hub import download


@pytest.fixture
def data(elsewhere, style):
    found = style.read_bytes()
    elsewhere.repos["plain"] = {"/x.safetensors": found}
    return found


def pull(elsewhere, tmp_path, **options):
    return adapterhub.pull(f"{elsewhere.url}/x.safetensors", tmp_path / "out", **options)


def asked(elsewhere):
    """Range and If-Range of each request after the first, which reads the header."""
    found = [{name.lower(): text for name, text in headers.items()} for _, headers in elsewhere.seen[1:]]
    return [(one.get("range"), one.get("if-range")) for one in found]


def tag(data):
    return f'"{hashlib.sha256(data).hexdigest()}"'


def test_the_rest_of_the_same_version_is_asked_for(hub, elsewhere, data, tmp_path):
    elsewhere.cuts = [None, 1000, 500, 0]
    done = pull(elsewhere, tmp_path)
    assert (tmp_path / "out/x.safetensors").read_bytes() == data
    assert done.files[0].sha256 == hashlib.sha256(data).hexdigest()
    rests = [(f"bytes={at}-", tag(data)) for at in (1000, 1500, 1500)]
    assert asked(elsewhere) == [(None, None), *rests]


@pytest.mark.parametrize("etag", [None, 'W/"{}"'])
def test_without_a_strong_tag_it_is_begun_anew(hub, elsewhere, data, tmp_path, etag):
    elsewhere.etag, elsewhere.cuts = etag, [None, 1000, 2000]
    pull(elsewhere, tmp_path)
    assert (tmp_path / "out/x.safetensors").read_bytes() == data
    assert asked(elsewhere) == [(None, None)] * 3


def test_a_server_that_sends_all_of_it_again_begins_anew(hub, elsewhere, data, tmp_path):
    elsewhere.ranges, elsewhere.cuts = False, [None, 1000]
    pull(elsewhere, tmp_path)
    assert (tmp_path / "out/x.safetensors").read_bytes() == data
    assert asked(elsewhere) == [(None, None), ("bytes=1000-", tag(data))]


def test_a_file_that_changed_meanwhile_is_refused(hub, elsewhere, data, tmp_path):
    path = "/x.safetensors"
    size = len(data)
    whole = {"ETag": '"one"', "Content-Length": str(size)}
    elsewhere.answers[path] = [
        (206, {"ETag": '"one"', "Content-Range": f"bytes 0-{size - 1}/{size}"}, data), (200, whole, data[:1000]),
        (200, whole | {"ETag": '"two"'}, data[::-1]),
    ]  # fmt: skip
    elsewhere.cuts = [None, 1000, None]
    with pytest.raises(MalformedFile, match="changed"):
        pull(elsewhere, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("told", ["bytes 0-{last}/{size}", "bytes 999-{last}/{size}", "nonsense"])
def test_another_part_than_was_asked_for_is_refused(hub, elsewhere, data, tmp_path, told):
    size = len(data)
    head = {"ETag": '"one"'}
    elsewhere.answers["/x.safetensors"] = [
        (206, head | {"Content-Range": f"bytes 0-{size - 1}/{size}"}, data), (200, head | {"Content-Length": str(size)}, data),
        (206, head | {"Content-Range": told.format(last=size - 1, size=size)}, data[1000:]),
    ]  # fmt: skip
    elsewhere.cuts = [None, 1000]
    with pytest.raises(RefusedInput, match="other bytes"):
        pull(elsewhere, tmp_path)
    assert not (tmp_path / "out").exists()


def test_it_ends_after_some_tries_and_leaves_nothing(hub, elsewhere, data, tmp_path):
    elsewhere.cuts = [None] + [100] * 50
    with pytest.raises(Unreachable):
        pull(elsewhere, tmp_path)
    assert asked(elsewhere)[-1] == (f"bytes={100 * download.RESUMED}-", tag(data))
    assert len(asked(elsewhere)) == 1 + download.RESUMED
    assert not (tmp_path / "out").exists()


def test_a_body_of_another_length_than_was_told_first_is_refused(hub, elsewhere, data, tmp_path):
    elsewhere.ranges, elsewhere.etag = False, None
    body = data + b"?" * 100
    elsewhere.answers["/x.safetensors"] = [
        (200, {"Content-Length": str(len(data))}, data),
        (200, {"Connection": "close", "Content-Length": str(len(body))}, body),
    ]
    with pytest.raises(MalformedFile, match="changed"):
        pull(elsewhere, tmp_path)
    assert not (tmp_path / "out").exists()
