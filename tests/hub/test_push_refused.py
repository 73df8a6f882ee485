"""push where it cannot go, or is cut off: what is said, and that the repository is as it was."""

import pytest
from safetensors.numpy import load_file
from safetensors.numpy import save as packed

from adapterhub.errors import (
    AdapterhubError,
    BrokenAdapter,
    MachineFailure,
    NoAccess,
    NotFound,
    Unreachable,
    UsageError,
)
from tests.hub import sources
from tests.hub.loopback import Fault
from tests.hub.loopback.faults import ANY
from tests.hub.test_push import FOX, LORA, garble, push


def test_what_is_not_sound_is_not_pushed(hub, tmp_path):
    tensors = load_file(sources.LORA)
    del tensors[next(name for name in tensors if "lora_up" in name)]
    (tmp_path / "half.safetensors").write_bytes(packed(tensors))
    with pytest.raises(BrokenAdapter, match="is not pushed"):
        push(tmp_path / "half.safetensors")
    assert hub.requests == []


FAULTS = {
    "offline": ({}, Unreachable), "unauthorised": ({"status": 401, "message": "Invalid credentials in Authorization header"}, NoAccess),
    "forbidden": ({"status": 403}, NoAccess), "conflict": ({"status": 409}, UsageError), "stale": ({"status": 412}, MachineFailure),
    "busy": ({"status": 429}, Unreachable), "broken": ({"status": 500}, Unreachable), "away": ({"status": 503}, Unreachable),
    "cut": ({"cut": "before"}, Unreachable),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_the_hub_refuses_is_an_error_of_ours_and_changes_nothing(name, hub, tmp_path, monkeypatch):
    fault, error = FAULTS[name]
    hub.add(FOX, {"README.md": b"# fox\n"})
    head = hub.head(FOX)
    if fault:
        hub.fail(Fault(path="/commit/", times=ANY, **fault))
    else:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(error) as found:
        push(sources.lora(tmp_path))
    assert hub.head(FOX) == head
    assert hub.token not in str(found.value)


@pytest.mark.parametrize(
    ("repo", "options", "error"),
    [("fox", {}, UsageError), ("a/b/c", {}, UsageError), ("alice/-x-", {}, UsageError), ("alice/../x", {}, UsageError),
     ("bob/fox", {}, NoAccess), ("bob/gated", {}, NoAccess), ("bob/new", {}, NoAccess), ("bob/hidden", {"create_pr": True}, AdapterhubError),
     (FOX, {"base_model": "./models/sd15"}, UsageError), (FOX, {"revision": "none", "create_pr": True}, NotFound)],
)  # fmt: skip
def test_where_it_cannot_go_is_said(repo, options, error, hub, tmp_path):
    hub.add("bob/fox", {})
    hub.add(FOX, {})
    hub.add("bob/gated", {"README.md": b"x"}, gated=True)
    hub.add("bob/hidden", {}, private=True)
    with pytest.raises(error):
        push(sources.lora(tmp_path), repo, **options)


@pytest.mark.parametrize("cut", ["before", "within"])
def test_a_push_that_is_cut_off_anywhere_leaves_the_former_commit_or_the_whole_new_one(cut, hub, tmp_path):
    source = sources.lora(tmp_path)
    hub.add("alice/whole", {"README.md": b"# fox\n"})
    push(source, "alice/whole")
    count = len(hub.requests)
    commit = next(number for number, one in enumerate(hub.requests, 1) if "/commit/" in one.path)
    for number in range(1, count + 1):
        repo = f"alice/fox-{number}"
        hub.add(repo, {"README.md": b"# fox\n"})
        head = hub.head(repo)
        hub.objects = {}
        hub.fail(Fault(cut=cut, nth=number, times=ANY))
        if number <= commit:
            with pytest.raises(MachineFailure):
                push(source, repo)
        else:
            done = push(source, repo)
            assert (done.verified, done.problems[-1].code) == (None, "not-read-back")
        hub.mend()
        whole = number > commit or (cut == "within" and number == commit)
        assert (hub.head(repo) != head) is whole, number
        assert (len(hub.files(repo)) == 2) is whole
    assert count >= 8


def test_an_answer_that_was_lost_is_looked_for(hub, tmp_path):
    hub.fail(Fault(path="/commit/", cut="after"))
    done = push(sources.lora(tmp_path))
    assert (done.commit, done.verified) == (hub.head(FOX), True)


def test_a_dry_run_sends_nothing_and_works_with_no_network(hub, tmp_path):
    source = sources.lora(tmp_path)
    seen = push(source, dry_run=True)
    assert (seen.remote.exists, {row.action for row in seen.files}) == (False, {"add"})
    hub.fail(Fault(cut="before", times=ANY))
    blind = push(source, dry_run=True)
    assert (blind.remote, {row.action for row in blind.files}, blind.card) == (None, {None}, seen.card)
    assert hub.repos == {}
    assert [one for one in hub.requests if one.method not in ("GET", "HEAD")] == []


def test_a_header_that_came_out_otherwise_is_noticed(hub, tmp_path, monkeypatch):
    garble(hub, monkeypatch)
    done = push(sources.lora(tmp_path))
    assert (done.verified, [(one.code, one.where) for one in done.problems][-1]) == (False, ("not-as-sent", LORA))
