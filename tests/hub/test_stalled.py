"""A Hub that takes what it is sent and does not answer: an end to waiting, status 5, the repository as before."""

import time

import pytest
from huggingface_hub import get_session

import adapterhub
from adapterhub.hub import transport
from tests.hub import sources
from tests.hub.loopback import Fault
from tests.hub.loopback.faults import ANY

FOX = "alice/fox"


@pytest.fixture
def hasty(hub, monkeypatch):
    monkeypatch.setattr(transport, "COMMITS", 0.2)
    hub.add(FOX, {"README.md": b"# fox\n"})
    return hub


@pytest.mark.parametrize("path", ["/validate-yaml", "/preupload/", "/objects/batch", "/lfs/", "/commit/"])
def test_a_push_onto_a_hub_that_stalls_ends(hasty, tmp_path, cli, path):
    head = hasty.head(FOX)
    hasty.fail(Fault(path=path, stall=60, cut="before", times=ANY))
    done = cli("push", sources.lora(tmp_path), FOX)
    assert (done.status, hasty.head(FOX)) == (5, head)
    assert "the server did not answer in time about hf://alice/fox" in done.err
    assert "Traceback" not in done.err


def test_a_repository_that_is_not_made_in_time_is_said(hasty, tmp_path, cli):
    hasty.fail(Fault(path="/repos/create", stall=60, cut="before", times=ANY))
    done = cli("push", sources.lora(tmp_path), "alice/new")
    assert (done.status, "did not answer in time" in done.err, "alice/new" in hasty.repos) == (5, True, False)


def test_a_header_that_is_not_read_back_in_time_is_a_problem_and_no_failure(hasty, tmp_path):
    hasty.fail(Fault(method="GET", path="/resolve/.*safetensors", stall=60, cut="before", times=ANY))
    done = adapterhub.push(sources.lora(tmp_path), FOX)
    assert (done.commit, done.verified, done.problems[-1].code) == (hasty.head(FOX), None, "not-read-back")


def test_a_search_ends(hasty, cli):
    hasty.fail(Fault(path="/api/models", stall=60, cut="before", times=ANY))
    assert cli("search", "fox", "--hub").status == 5


def test_who_set_a_time_limit_keeps_it_and_nothing_is_left_behind(hasty):
    session = get_session()
    before = {name: [*hooks] for name, hooks in session.event_hooks.items()}
    with transport.patient():
        (limit,) = set(session.event_hooks["request"]) - {*before["request"]}
        own, none = (session.build_request("GET", hasty.endpoint, timeout=seconds) for seconds in (7, None))
        limit(own)
        limit(none)
    assert set(own.extensions["timeout"].values()) == {7}
    assert (none.extensions["timeout"]["read"], none.extensions["timeout"]["connect"]) == (0.2, transport.CONNECT)
    assert session.event_hooks == before


def test_it_can_be_pushed_again_when_the_commit_landed_after_all(hasty, tmp_path, cli):
    source = sources.lora(tmp_path)
    hasty.fail(Fault(path="/commit/", stall=1))
    assert cli("push", source, FOX).status == 5
    until = time.monotonic() + 20
    while "pytorch_lora_weights.safetensors" not in hasty.files(FOX):
        assert time.monotonic() < until
        time.sleep(0.05)
    again = adapterhub.push(source, FOX)
    assert ({row.action for row in again.files}, again.commit) == ({"same"}, hasty.head(FOX))
