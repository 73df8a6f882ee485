"""adapterhub push as a user runs it: statuses, one JSON document, a registry's names, and where the token may come from."""

import json

import jsonschema
import pytest

import adapterhub
from adapterhub.documents import schema
from tests.hub import sources
from tests.hub.loopback import Fault
from tests.hub.test_push import garble

FOX = "alice/fox"


def test_a_dry_run_without_any_network_is_one_document(hub, tmp_path, monkeypatch):
    source = sources.lora(tmp_path, name="k.safetensors")
    done = hub.run(
        "-m", "adapterhub", "push", source, "alice/fox-lora", "--dry-run", "--json", HF_ENDPOINT="http://127.0.0.1:9"
    )
    assert (done.returncode, hub.requests) == (0, [])
    told = json.loads(done.stdout)
    jsonschema.validate(told, json.loads(schema("push")))
    assert [row["name"] for row in told["files"]] == ["README.md", "pytorch_lora_weights.safetensors"]
    assert (told["remote"], told["dry_run"], told["commit"]) == (None, True, None)
    assert told["card"].startswith("---\nlibrary_name: diffusers\n")
    assert hub.token not in done.stdout + done.stderr


def test_a_push_tells_where_it_went(hub, tmp_path, cli):
    done = cli("push", sources.lora(tmp_path), FOX, "--also", "kohya", "--license", "mit", "--base-model", "alice/base")
    assert done.status == 0
    assert f"{hub.endpoint}/{FOX}/commit/{hub.head(FOX)}" in done.out
    assert "every header as it was sent" in done.out


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [(["fox"], 2, "USER/NAME"), (["bob/new"], 5, "the token may not do this"), (["a b/c"], 2, "USER/NAME"),
     ([FOX, "--base-model", "/home/x"], 2, "no Hub id"), ([FOX, "--token-env", "NONE"], 2, "has no NONE"),
     ([FOX, "--also", "nothing"], 2, "unknown layout"), ([FOX, "--revision", "b", "--create-pr"], 1, "no such revision"),
     ([FOX, "--image", "none.png"], 2, "no such file")],
)  # fmt: skip
def test_what_cannot_be_done_is_said_with_a_status(arguments, status, said, hub, tmp_path, cli):
    hub.add(FOX, {})
    done = cli("push", sources.lora(tmp_path), *arguments)
    assert (done.status, said in done.err, done.out) == (status, True, "")
    assert "Traceback" not in done.err


def test_what_is_not_there_or_no_adapter_is_said(hub, tmp_path, cli):
    (tmp_path / "x.safetensors").write_bytes(b"x")
    assert cli("push", tmp_path / "none.safetensors", FOX).status == 2
    assert cli("push", tmp_path / "x.safetensors", FOX).status == 3
    assert hub.requests == []


def test_other_algorithms_are_refused_until_they_are_rewritten(hub, tmp_path, cli):
    source = sources.copied(sources.FIXTURES / "kohya/sd1-loha.safetensors", tmp_path)
    refused = cli("push", source, FOX)
    assert (refused.status, "--as lora" in refused.err, hub.repos) == (4, True, {})
    assert cli("push", source, FOX, "--as", "lora").status == 0
    assert "`lora: " in hub.files(FOX)["README.md"].decode()


def test_a_name_of_the_registry_is_pushed(hub, tmp_path, cli, monkeypatch):
    monkeypatch.setenv("ADAPTERHUB_DB", str(tmp_path / "registry.db"))
    (tmp_path / "library").mkdir()
    sources.lora(tmp_path / "library", name="vixen.safetensors")
    assert cli("index", tmp_path / "library").status == 0
    assert cli("push", "vixen", FOX).status == 0
    assert "pytorch_lora_weights.safetensors" in hub.files(FOX)
    assert cli("push", "nobody", FOX).status == 1


def test_the_registry_knows_where_it_was_pushed_and_still_does_when_it_moves(hub, tmp_path, cli):
    library, db = tmp_path / "library", tmp_path / "r.db"
    library.mkdir()
    source = sources.lora(library, name="fox.safetensors")
    adapterhub.index(library, db=db)
    assert cli("push", source, FOX, "--license", "mit", "--base-model", "alice/base", "--db", db).status == 0
    source.rename(library / "renamed.safetensors")
    adapterhub.index(library, db=db)
    told = adapterhub.show("renamed", db=db).facts
    assert [(one.value, one.origin) for one in told["repository"]] == [(FOX, "pushed")]
    assert [one.value for one in told["revision"]] == [hub.head(FOX)]
    assert hub.token.encode() not in db.read_bytes()


def test_the_token_may_stand_in_any_variable(hub, tmp_path, cli, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    refused = cli("push", sources.lora(tmp_path), FOX)
    assert (refused.status, hub.repos) == (5, {})
    monkeypatch.setenv("MINE", hub.token)
    done = cli("push", sources.lora(tmp_path), FOX, "--token-env", "MINE", "--json")
    assert (done.status, hub.token in done.out + done.err) == (0, False)


def test_what_came_out_otherwise_is_status_1(hub, tmp_path, cli, monkeypatch):
    garble(hub, monkeypatch)
    assert cli("push", sources.lora(tmp_path), FOX).status == 1


def test_a_hostile_header_reaches_neither_the_terminal_nor_the_card_as_it_is(hub, tmp_path, cli):
    evil = "\x1b[31m\u202e<script>\n---\nlicense: mit\n---\n# heading"
    done = cli(
        "push", sources.lora(tmp_path, {"ss_training_comment": evil, "modelspec.description": evil}), FOX, "--dry-run"
    )
    assert (done.status, "\x1b" in done.out, "\u202e" in done.out) == (0, False, False)
    assert "license" not in done.out.partition("adapterhub:begin")[0].replace(
        "no-license: license: no licence", ""
    ).replace("--license", "")


def test_a_server_that_stalls_or_hangs_up_is_status_5(hub, tmp_path, cli):
    hub.fail(Fault(path="/commit/", cut="before"))
    done = cli("push", sources.lora(tmp_path), FOX)
    assert (done.status, "the connection to the server failed" in done.err) == (5, True)
