"""The command line against the whole loopback Hub: what one pushes another pulls, gates and names included."""

import json

import pytest

from tests.hub.loopback import Fault


@pytest.fixture
def fox(hub, style):
    data = style.read_bytes()
    hub.add("alice/fox", {"pytorch_lora_weights.safetensors": data, "README.md": b"# Fox"})
    return data


def pull(hub, tmp_path, *arguments):
    return hub.run(
        "-m", "adapterhub", "pull", *arguments, "-o", str(tmp_path / "out"), "--db", str(tmp_path / "r.db"), "--json"
    )


def test_what_is_there_is_inspected_and_pulled(hub, fox, tmp_path):
    seen = json.loads(hub.run("-m", "adapterhub", "inspect", "hf://alice/fox", "--json").stdout)
    done = json.loads(pull(hub, tmp_path, "alice/fox").stdout)
    assert done["inspection"]["layout"] == seen["layout"]
    assert (tmp_path / "out/pytorch_lora_weights.safetensors").read_bytes() == fox
    assert done["revision"] == hub.head("alice/fox")


def test_a_renamed_repository_is_pulled_by_its_old_name(hub, fox, tmp_path):
    hub.rename("alice/fox", "alice/vixen")
    done = pull(hub, tmp_path, "alice/fox")
    assert done.returncode == 0
    assert json.loads(done.stdout)["repo"] == "alice/vixen"


@pytest.mark.parametrize(
    ("repo", "revision", "status"), [("alice/none", "main", 1), ("alice/fox", "nowhere", 1), ("alice/fox", "main", 0)]
)
def test_what_is_not_there_is_said(hub, fox, tmp_path, repo, revision, status):
    done = pull(hub, tmp_path, repo, "--revision", revision)
    assert (done.returncode, "Traceback" in done.stderr) == (status, False)


@pytest.mark.parametrize(
    "fault", [Fault(status=403, path="/resolve/", times=99), Fault(status=404, path="/resolve/", times=99)]
)
def test_a_file_that_is_refused_leaves_nothing(hub, fox, tmp_path, fault):
    hub.fail(fault)
    done = pull(hub, tmp_path, "alice/fox")
    assert done.returncode in (1, 5)
    assert hub.token not in done.stdout + done.stderr
    assert not (tmp_path / "out").exists()
