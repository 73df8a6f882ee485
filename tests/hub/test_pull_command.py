"""adapterhub pull as a user runs it: whether it fits is said first, and a registry that fails does not undo what was done."""

import json

import jsonschema
import pytest

import adapterhub
from adapterhub.documents import schema
from tests.hub import sources
from tests.operations import merge_files
from tests.operations.checkpoint_files import saved, weights

FOX, LORA = "alice/fox", "pytorch_lora_weights.safetensors"


@pytest.fixture
def fox(hub, tmp_path):
    data = merge_files.lora(tmp_path / "lora.safetensors").read_bytes()
    hub.add(FOX, {LORA: data})
    return data


@pytest.mark.parametrize(("family", "present"), [("sd1", 6), ("sdxl", 0)])
def test_how_it_fits_is_said_before_it_is_downloaded(hub, fox, tmp_path, family, present):
    base = saved(tmp_path / f"{family}.safetensors", weights(family))
    seen = []

    def announce(told):
        seen.append((told.fit.model.present, told.fit.model.modules, told.fit.fits, (tmp_path / "out").exists()))
        assert not [one for one in hub.requests if one.method == "GET" and "resolve" in one.path and not one.range]

    done = adapterhub.pull(FOX, tmp_path / "out", base=base, announce=announce)
    here = adapterhub.compatible(tmp_path / "out" / LORA, base)
    assert seen == [(here.model.present, 6, here.fits, False)]
    assert (done.fit.model, done.fit.fits) == (here.model, here.fits)


def test_a_person_reads_it_and_a_program_too(hub, fox, tmp_path, cli):
    base = merge_files.base(tmp_path / "base.safetensors")
    told = cli("pull", FOX, "-o", tmp_path / "out", "--base", base)
    assert (told.status, f"6 of 6 modules of {base}" in " ".join(told.err.split())) == (0, True)
    found = json.loads(cli("pull", FOX, "-o", tmp_path / "again", "--base", base, "--json", "--dry-run").out)
    jsonschema.validate(found, json.loads(schema("pulled")))
    assert found["fit"]["model"]["present"] == 6
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("base", ["none.safetensors", "lora.safetensors"])
def test_a_base_that_is_none_is_said_before_anything_is_downloaded(hub, fox, tmp_path, cli, base):
    done = cli("pull", FOX, "-o", tmp_path / "out", "--base", tmp_path / base)
    assert (done.status in (2, 3), done.out, (tmp_path / "out").exists()) == (True, "", False)


def test_what_is_no_adapter_is_pulled_and_not_compared(hub, tmp_path, cli):
    base = merge_files.base(tmp_path / "base.safetensors")
    hub.add(FOX, {"model.safetensors": base.read_bytes()})
    done = cli("pull", FOX, "-o", tmp_path / "out", "--base", base)
    assert (done.status, "not compared: it is of the kind checkpoint" in done.err) == (0, True)


def test_what_was_pulled_stays_though_it_could_not_be_recorded(hub, fox, tmp_path, cli):
    (tmp_path / "file").write_bytes(b"")
    done = cli("pull", FOX, "-o", tmp_path / "out", "--db", tmp_path / "file/r.db")
    assert (done.status, "pulled, but not recorded: " in done.err) == (0, True)
    assert (tmp_path / "out" / LORA).read_bytes() == fox


def test_what_was_pushed_is_there_though_it_could_not_be_recorded(hub, tmp_path, cli):
    (tmp_path / "file").write_bytes(b"")
    done = cli("push", sources.lora(tmp_path), FOX, "--db", tmp_path / "file/r.db", "--json")
    assert (done.status, "pushed, but not recorded: " in done.err) == (0, True)
    assert json.loads(done.out)["commit"] == hub.head(FOX)
