"""search --hub: what the list tells of kind and architecture, what it does not, and what headers tell if they are read."""

import json

import pytest

import adapterhub
from adapterhub.errors import UsageError
from adapterhub.hub import search
from adapterhub.hub.listing import told
from tests.hub import sources
from tests.hub.loopback import Fault

SDXL, SD1 = "stabilityai/stable-diffusion-xl-base-1.0", "runwayml/stable-diffusion-v1-5"
LORA = "pytorch_lora_weights.safetensors"

KNOWN = {
    "a name before a tag": ([LORA], ["textual_inversion"], [], "lora", None, [f"file {LORA}"]),
    "an adapter beside a pipeline": (["model_index.json", LORA], [], [], "lora", None, [f"file {LORA}"]),
    "a pipeline": (["model_index.json"], [], [], "checkpoint", None, ["file model_index.json"]),
    "a name below the top": ([f"x/{LORA}"], [], [], None, None, []),
    "a tag": (["x.safetensors"], ["diffusers", "lora"], [], "lora", None, ["tag lora"]),
    "two tags that agree": ([], ["lora", "dora"], [], "lora", None, ["tag lora"]),
    "two tags that do not": ([], ["lora", "textual_inversion"], [], None, None, []),
    "a hypernetwork": ([], ["hypernetwork"], [], "hypernetwork", None, ["tag hypernetwork"]),
    "stable-diffusion, which all are called": ([], ["stable-diffusion"], [], None, None, []),
    "a family": ([], ["stable-diffusion-xl"], [], None, "sdxl", ["tag stable-diffusion-xl"]),
    "a base": ([], [], [SD1], None, "sd1", [f"base model {SD1}"]),
    "a base in another case": ([], [], [SDXL.upper()], None, "sdxl", [f"base model {SDXL.upper()}"]),
    "a base before a family": (
        [], ["stable-diffusion-xl"], ["stabilityai/stable-diffusion-xl-refiner-1.0"], None, "sdxl-refiner",
        ["base model stabilityai/stable-diffusion-xl-refiner-1.0"],
    ),
    "bases that do not agree": ([], [], [SD1, SDXL], None, None, []),
    "a base that nobody knows": ([], ["lora"], ["alice/dream"], "lora", None, ["tag lora"]),
    "nothing": ([], [], [], None, None, []),
}  # fmt: skip


@pytest.mark.parametrize("what", KNOWN)
def test_what_a_list_tells(what):
    names, tags, bases, kind, architecture, evidence = KNOWN[what]
    assert told(names, tags, bases) == (kind, architecture, evidence)


def card(*tags, base=None):
    lines = ["tags:", *(f"- {tag}" for tag in tags)] + (
        [f"base_model: {base}", "base_model_relation: adapter"] if base else []
    )
    return "\n".join(["---", *lines, "---", ""]).encode()


@pytest.fixture
def foxes(hub):
    weights = sources.LORA.read_bytes()
    hub.add("alice/fox-one", {"README.md": card("lora", base=SDXL), LORA: weights})
    hub.add("alice/fox-two", {"README.md": card("lora"), "two.safetensors": weights})
    hub.add("alice/fox-many", {"README.md": card("lora"), "a.safetensors": weights, "b.safetensors": weights})
    hub.add(
        "bob/fox-token", {"README.md": card("textual_inversion"), "x.bin": sources.EMBEDDING.read_bytes()}, gated=True
    )
    for number, name in enumerate(("fox-one", "fox-two", "fox-many")):
        hub.repo(f"alice/{name}").downloads = 100 - number
    return hub


def test_rows_have_kind_and_architecture_from_one_request(foxes):
    found = adapterhub.search_hub("fox").found
    assert [(one.repo, one.kind, one.architecture) for one in found] == [
        ("alice/fox-one", "lora", "sdxl"), ("alice/fox-two", "lora", None), ("alice/fox-many", "lora", None),
    ]  # fmt: skip
    assert len(foxes.requests) == 1


def test_a_kind_is_asked_for_by_its_tag(foxes):
    (found,) = adapterhub.search_hub("fox", kind="embedding").found
    assert (found.repo, found.kind, found.gated) == ("bob/fox-token", "embedding", True)
    assert adapterhub.search_hub(kind="lora", base_model=SDXL).found[0].repo == "alice/fox-one"
    with pytest.raises(UsageError, match="no tag"):
        adapterhub.search_hub("fox", kind="checkpoint")


def test_headers_tell_what_lists_do_not_and_why_they_could_not_be_read(foxes):
    one, two, many = adapterhub.search_hub("fox", look=True).found
    assert (one.kind, one.architecture, one.layout, one.evidence) == ("lora", "sd1", "kohya", ["header"])
    assert (two.architecture, two.unread) == ("sd1", None)
    assert (many.architecture, many.evidence) == (None, ["tag lora"])
    assert "several models" in many.unread
    (token,) = adapterhub.search_hub("fox", kind="embedding", look=True).found
    assert "gated" in token.unread


def test_no_more_are_looked_at_than_is_said(foxes, monkeypatch):
    monkeypatch.setattr(search, "LOOKED", 1)
    found = adapterhub.search_hub("fox", look=True).found
    assert [one.layout for one in found] == ["kohya", None, None]
    assert not [one for one in foxes.requests if "fox-two" in one.path]


def test_a_person_sees_both_and_what_could_not_be_read(foxes, cli):
    done = cli("search", "fox", "--hub", "--look")
    assert done.status == 0
    assert done.out.splitlines()[1].split()[:3] == ["alice/fox-one", "lora", "sd1"]
    assert "alice/fox-many was not looked at" in done.err
    assert json.loads(cli("search", "fox", "--hub", "--json").out)["found"][0]["architecture"] == "sdxl"


@pytest.mark.parametrize("option", [["--rank", "4"], ["--architecture", "sdxl"], ["--missing"], ["--tag", "x"]])
def test_what_the_hub_cannot_be_asked_is_refused_and_not_left_out(foxes, cli, option):
    assert cli("search", "fox", "--hub", *option).status == 2
    assert cli("search", "fox", "--look").status == 2
    assert foxes.requests == []


def test_a_search_that_fails_is_said(foxes, cli):
    foxes.fail(Fault(status=503, times=99))
    assert cli("search", "fox", "--hub").status == 5
