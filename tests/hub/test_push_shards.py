"""push over a model in shards: what readers would take in place of what is pushed goes in the same commit, and nothing else."""

import pytest

import adapterhub
from adapterhub.errors import UsageError
from adapterhub.hub.publishing import There, stale
from adapterhub.hub.repository import RemoteFile
from tests.hub.loopback import Fault
from tests.operations.checkpoint_files import saved, weights

FOX = "alice/fox"
UNET = "unet/diffusion_pytorch_model"
SHARDS = [f"{UNET}-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
FORMER = [*SHARDS, f"{UNET}.safetensors.index.json"]
OTHERS = [
    "unet/other-00001-of-00002.safetensors", f"{UNET}.fp16.safetensors", f"{UNET}-000010.safetensors", f"{UNET}.bin",
    f"x/{UNET}-00001-of-00003.safetensors", "diffusion_pytorch_model-00001-of-00003.safetensors", f"{UNET}.safetensors.index.json.txt",
    "transformer/diffusion_pytorch_model-00001-of-00002.safetensors", "notes.txt",
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model") / "m.safetensors", weights("sd1"))


@pytest.fixture
def former(hub):
    hub.add(FOX, {name: name.encode() for name in [*FORMER, *OTHERS]})
    return hub


def actions(done):
    return {row.name: row.action for row in done.files}


def test_former_shards_go_and_nothing_else(former, model):
    told = adapterhub.push(model, FOX, dry_run=True)
    assert {name for name, action in actions(told).items() if action == "delete"} == {*FORMER}
    assert [row.size for row in told.files if row.name == SHARDS[0]] == [len(SHARDS[0])]
    assert former.files(FOX).keys() == {*FORMER, *OTHERS}
    with pytest.raises(UsageError, match=r"has other files called .*-of-00003"):
        adapterhub.push(model, FOX)
    before = former.head(FOX)
    done = adapterhub.push(model, FOX, force=True)
    assert former.repo(FOX).commits[done.commit].parent == before
    there = former.files(FOX)
    assert not there.keys() & {*FORMER}
    assert {name: there[name] for name in OTHERS} == {name: name.encode() for name in OTHERS}
    assert f"{UNET}.safetensors" in there
    assert (done.verified, adapterhub.inspect(f"hf://{FOX}").architecture) == (True, "sd1")
    again = adapterhub.push(model, FOX)
    assert (set(actions(again).values()), again.commit) == ({"same"}, done.commit)


def test_a_pull_request_proposes_it(former, model):
    done = adapterhub.push(model, FOX, create_pr=True)
    assert former.files(FOX).keys() == {*FORMER, *OTHERS}
    assert not former.files(FOX, "refs/pr/1").keys() & {*FORMER}
    assert {name for name, action in actions(done).items() if action == "delete"} == {*FORMER}


def test_an_answer_that_was_lost_is_found_though_files_were_deleted(former, model):
    former.fail(Fault(path="/commit/", cut="after"))
    done = adapterhub.push(model, FOX, force=True)
    assert (done.commit, done.verified) == (former.head(FOX), True)
    assert not former.files(FOX).keys() & {*FORMER}


def test_a_person_sees_what_would_go(former, model, cli):
    done = cli("push", model, FOX, "--dry-run")
    assert [line.split()[:2] for line in done.out.splitlines() if line.startswith("delete")] == [
        ["delete", f"{name},"] for name in sorted(FORMER)
    ]


@pytest.mark.parametrize(
    ("sent", "there", "gone"),
    [(["a.safetensors"], ["a-00001-of-00002.safetensors", "b-00001-of-00002.safetensors"], ["a-00001-of-00002.safetensors"]),
     (["a-00001-of-00001.safetensors", "a.safetensors.index.json"],
      ["a-00001-of-00002.safetensors", "a-00002-of-00002.safetensors", "a.safetensors", "a.safetensors.index.json", "a.bin"],
      ["a-00001-of-00002.safetensors", "a-00002-of-00002.safetensors", "a.safetensors"]),
     (["a.safetensors"], ["a.safetensors", "A-00001-of-00002.safetensors", "a-1-of-2.safetensors"], []),
     (["a.pt", "README.md"], ["a-00001-of-00002.safetensors", "a.pt.index.json"], [])],
)  # fmt: skip
def test_what_readers_would_take_instead(sent, there, gone):
    found = There(None, {name: RemoteFile(name, 1) for name in there})
    assert [one.name for one in stale(sent, found)] == gone
    assert stale(sent, None) == []


def test_the_card_of_what_is_pushed_does_not_name_them(former, model):
    done = adapterhub.push(model, FOX, dry_run=True)
    assert "-of-00003" not in done.card
