"""Xet, as hf_xet plays it on a disk: files that come and go that way are checked like others. Its servers are not played."""

import os

import pytest
from huggingface_hub import constants

import adapterhub
from adapterhub.errors import MalformedFile, Unreachable
from tests.hub import sources

FOX, LORA = "alice/fox", "pytorch_lora_weights.safetensors"


@pytest.fixture
def xet(hub, tmp_path, monkeypatch):
    """The Hub with a store of Xet; the client has it switched on. It is imported here, for it begins to log into HF_HOME then."""
    pytest.importorskip("hf_xet")
    monkeypatch.delenv("HF_HUB_DISABLE_XET")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.cas = f"local://{tmp_path}/cas"
    return hub


def stored(hub, data):
    """The hash by which Xet has these bytes."""
    import hf_xet

    with hf_xet.XetSession().new_upload_commit(endpoint=hub.cas) as commit:
        handle = commit.start_upload_bytes(data)
    return handle.result().xet_info.hash


@pytest.fixture
def fox(xet, style):
    data = style.read_bytes()
    xet.add(FOX, {LORA: data})
    return data, xet.repo(FOX).at("main").files[LORA].sha256


def from_disk(hub):
    """Whether the file itself was asked for only in ranges."""
    return all(
        one.range for one in hub.requests if one.method == "GET" and one.path.startswith(("/cdn/", f"/{FOX}/resolve"))
    )


@pytest.mark.parametrize("how", [{}, {"link": True}])
def test_a_file_comes_by_way_of_xet(xet, fox, tmp_path, how):
    data, digest = fox
    xet.xet[digest] = stored(xet, data)
    done = adapterhub.pull(FOX, tmp_path / "out", **how)
    assert (tmp_path / "out" / LORA).read_bytes() == data
    assert (done.files[0].sha256, from_disk(xet)) == (digest, True)


def test_other_bytes_from_xet_are_refused_and_not_kept(xet, fox, tmp_path):
    data, digest = fox
    xet.xet[digest] = stored(xet, data[:-1] + b"?")
    with pytest.raises(MalformedFile) as caught:
        adapterhub.pull(FOX, tmp_path / "out")
    assert (caught.value.rule, from_disk(xet), (tmp_path / "out").exists()) == ("digest-differs", True, False)
    assert [path for path in xet.home.rglob("*") if path.is_file() and path.stat().st_size == len(data)] == []
    xet.xet[digest] = stored(xet, data)
    adapterhub.pull(FOX, tmp_path / "out")
    assert (tmp_path / "out" / LORA).read_bytes() == data


def test_no_more_is_taken_from_xet_than_was_told(xet, fox, tmp_path):
    data, digest = fox
    xet.xet[digest] = stored(xet, data + os.urandom(1 << 20))
    adapterhub.pull(FOX, tmp_path / "out")
    assert (tmp_path / "out" / LORA).read_bytes() == data


def test_less_from_xet_is_refused(xet, fox, tmp_path):
    data, digest = fox
    xet.xet[digest] = stored(xet, data[:-100])
    with pytest.raises((Unreachable, MalformedFile)):
        adapterhub.pull(FOX, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_xet_does_not_have_is_an_error_of_ours_that_says_how_to_go_without(xet, fox, tmp_path, cli):
    xet.xet[fox[1]] = "a" * 64
    done = cli("pull", FOX, "-o", tmp_path / "out")
    assert (done.status, "HF_HUB_DISABLE_XET=1" in done.err, "internal error" in done.err) == (5, True, False)
    assert not (tmp_path / "out").exists()


def test_a_hub_without_xet_is_pulled_from_as_ever(xet, fox, tmp_path):
    xet.cas = None
    adapterhub.pull(FOX, tmp_path / "out")
    assert (tmp_path / "out" / LORA).read_bytes() == fox[0]


def test_a_push_goes_by_way_of_xet(xet, tmp_path, monkeypatch):
    source = sources.lora(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        adapterhub.push(source, "alice/plain")  # for the Hub of the tests does not read what is in Xet
    sent = len(xet.requests)
    done = adapterhub.push(source, FOX)
    assert (done.verified, xet.files(FOX)[LORA]) == (True, xet.files("alice/plain")[LORA])
    assert not [one for one in xet.requests[sent:] if one.method == "PUT" or "/lfs/" in one.path]
    assert [path for path in (tmp_path / "cas").rglob("*") if path.is_file() and path.stat().st_size > 1000]


def test_a_push_to_a_hub_without_xet_says_how_to_go_without(xet, tmp_path, cli):
    xet.cas = None
    xet.add(FOX, {})
    head = xet.head(FOX)
    done = cli("push", sources.lora(tmp_path), FOX)
    assert (done.status, "HF_HUB_DISABLE_XET=1" in done.err, xet.head(FOX)) == (5, True, head)
