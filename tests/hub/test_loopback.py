"""The loopback Hub is what the real client takes for the Hub."""

from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, errors, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors.numpy import save

from tests.hub.loopback import Fault

FILES = {"a.safetensors": b"a" * 100, "README.md": b"---\nlicense: mit\ntags: [lora]\n---\n", "sub/b.txt": b"b"}


def add(name, data):
    return CommitOperationAdd(name, data)


@pytest.fixture
def fox(hub):
    hub.add("alice/fox", FILES)
    return hub


def test_a_repository_is_made_and_files_come_back_as_they_went(hub, tmp_path):
    api = hub.api()
    assert api.whoami()["name"] == "alice"
    assert api.create_repo("alice/fox", private=True) == f"{hub.endpoint}/alice/fox"
    assert api.create_repo("alice/fox", exist_ok=True).repo_id == "alice/fox"
    done = api.create_commit("alice/fox", [add(name, data) for name, data in FILES.items()], commit_message="first")
    assert (hub.files("alice/fox"), hub.head("alice/fox")) == (FILES, done.oid)
    for name, data in FILES.items():
        assert (tmp_path / api.hf_hub_download("alice/fox", name)).read_bytes() == data


def test_what_is_there_is_not_sent_again(fox):
    api = fox.api()
    head = fox.head("alice/fox")
    assert api.create_commit("alice/fox", [add(*pair) for pair in FILES.items()], commit_message="again").oid == head
    api.create_commit("alice/fox", [add("copy.safetensors", FILES["a.safetensors"])], commit_message="a copy")
    assert [one for one in fox.requests if one.method == "PUT"] == []


@pytest.mark.parametrize("part", [None, 30])
def test_a_large_file_goes_in_parts(fox, part):
    fox.part_size = part
    data = bytes(range(250))
    fox.api().create_commit("alice/fox", [add("new.safetensors", data)], commit_message="new")
    assert fox.files("alice/fox")["new.safetensors"] == data
    assert len([one for one in fox.requests if one.method == "PUT"]) == (1 if part is None else 9)


def test_a_commit_deletes_and_a_stale_one_does_nothing(fox):
    api, head = fox.api(), fox.head("alice/fox")
    gone = [CommitOperationDelete("sub/"), CommitOperationDelete("a.safetensors")]
    api.create_commit("alice/fox", gone, commit_message="less", parent_commit=head)
    assert fox.files("alice/fox").keys() == {"README.md"}
    with pytest.raises(HfHubHTTPError) as found:
        api.create_commit("alice/fox", [add("c", b"c")], commit_message="late", parent_commit=head)
    assert found.value.response.status_code == 412


def test_branches_and_pull_requests(fox):
    api = fox.api()
    api.create_branch("alice/fox", branch="dev/x")
    api.create_commit("alice/fox", [add("c.txt", b"c")], commit_message="on a branch", revision="dev/x")
    done = fox.api("hf_" + "bobby" * 7).create_commit(
        "alice/fox", [add("d.txt", b"d")], commit_message="x", create_pr=True
    )
    assert done.pr_url == f"{fox.endpoint}/alice/fox/discussions/1"
    assert "c.txt" in fox.files("alice/fox", "dev/x")
    assert "d.txt" in fox.files("alice/fox", "refs/pr/1")
    assert fox.files("alice/fox") == FILES
    found = api.list_repo_refs("alice/fox", include_pull_requests=True)
    assert ({one.name for one in found.branches}, len(found.pull_requests)) == ({"main", "dev/x"}, 1)
    assert Path(api.hf_hub_download("alice/fox", "c.txt", revision="dev/x")).read_bytes() == b"c"


def test_trees_come_in_pages(fox):
    fox.page_size = 1
    assert {one.path for one in fox.api().list_repo_tree("alice/fox", recursive=True)} == {
        *FILES,
        "sub",
        ".gitattributes",
    }
    assert {one.path for one in fox.api().list_repo_tree("alice/fox")} == {*FILES, "sub", ".gitattributes"} - {
        "sub/b.txt"
    }
    assert [one.path for one in fox.api().list_repo_tree("alice/fox", "sub")] == ["sub/b.txt"]


def test_sizes_and_digests_are_told_before_a_download(fox):
    info = fox.api().model_info("alice/fox", files_metadata=True)
    (file,) = [one for one in info.siblings if one.rfilename == "a.safetensors"]
    assert (file.size, len(file.lfs.sha256), info.card_data.license, info.tags) == (
        100,
        64,
        "mit",
        ["lora", "license:mit"],
    )


def test_a_header_is_read_by_range_and_the_token_stays_at_home(hub):
    import numpy as np

    hub.add("alice/fox", {"x.safetensors": save({"w": np.zeros((64, 512), np.float32)}, {"format": "pt"})})
    found = hub.api().parse_safetensors_file_metadata("alice/fox", "x.safetensors")
    assert (found.tensors["w"].shape, found.metadata) == ([64, 512], {"format": "pt"})
    at_home, away = hub.requests[-2:]
    assert (at_home.authorization, away.authorization, away.status) == (f"Bearer {hub.token}", None, 206)


@pytest.mark.parametrize(
    ("told", "token", "error"),
    [({"private": True}, None, errors.RepositoryNotFoundError), ({"gated": True}, None, errors.GatedRepoError),
     ({"gated": True}, "hf_" + "bobby" * 7, errors.GatedRepoError), ({}, "hf_nobody", HfHubHTTPError)],
)  # fmt: skip
def test_who_may_not_is_told_so(hub, told, token, error):
    hub.add("alice/fox", FILES, **told)
    with pytest.raises(error):
        hub.api(token).parse_safetensors_file_metadata("alice/fox", "a.safetensors")


@pytest.mark.parametrize(
    ("given", "error"),
    [(("alice/none", "a"), errors.RepositoryNotFoundError), (("alice/fox", "none"), errors.RemoteEntryNotFoundError)],
)
def test_what_is_not_there_is_said_to_be_so(fox, given, error):
    with pytest.raises(error):
        fox.api().hf_hub_download(*given)
    with pytest.raises(errors.RevisionNotFoundError):
        fox.api().model_info("alice/fox", revision="none")


def test_models_are_searched_by_tags_and_words(fox):
    fox.add("bob/owl", {"README.md": b"---\nbase_model: a/b\nbase_model_relation: adapter\n---\n"})
    assert [one.id for one in fox.api().list_models(filter="base_model:adapter:a/b")] == ["bob/owl"]
    assert [one.id for one in fox.api().list_models(search="fox", author="alice")] == ["alice/fox"]
    assert len(list(fox.api().list_models(limit=1))) == 1


def test_a_renamed_repository_is_found_by_its_old_name(fox):
    fox.rename("alice/fox", "alice/vixen")
    assert fox.api().model_info("alice/fox").id == "alice/vixen"
    assert Path(fox.api().hf_hub_download("alice/fox", "sub/b.txt")).read_bytes() == b"b"


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 429}, {"cut": "before"}, {"cut": "within"}])
def test_faults_come_at_the_request_that_they_are_for(fox, fault):
    fox.fail(Fault(path="/preupload/", **fault))
    fox.api().create_commit("alice/fox", [add("c.txt", b"c")], commit_message="c")  # tried again
    assert "c.txt" in fox.files("alice/fox")
    fox.mend()
    fox.fail(Fault(path="/commit/", nth=2, **fault))
    fox.api().create_commit("alice/fox", [add("d.txt", b"d")], commit_message="d")
    with pytest.raises(Exception):  # noqa: B017 - of several kinds
        fox.api().create_commit("alice/fox", [add("e.txt", b"e")], commit_message="e")
    assert ("e.txt" in fox.files("alice/fox")) is (fault == {"cut": "within"})


def test_functions_of_the_client_that_were_imported_before_know_this_hub_too(fox):
    assert Path(hf_hub_download("alice/fox", "sub/b.txt")).read_bytes() == b"b"


def test_the_hf_command_talks_to_it(fox, tmp_path):
    (tmp_path / "new.txt").write_text("new")
    done = fox.run("-m", "huggingface_hub.cli.hf", "upload", "alice/fox", tmp_path / "new.txt", "new.txt")
    assert done.returncode == 0, done.stderr
    assert fox.files("alice/fox")["new.txt"] == b"new"
    done = fox.run("-m", "huggingface_hub.cli.hf", "download", "alice/fox", "--local-dir", tmp_path / "got")
    assert (tmp_path / "got/sub/b.txt").read_bytes() == b"b", done.stderr
