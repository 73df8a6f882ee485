"""Configurations of a folder that do not fit the model, or are none."""

from __future__ import annotations

import json
import shutil

import pytest

import adapterhub
from adapterhub.errors import MalformedFile, UsageError
from tests.operations.checkpoint_files import document, folder_of, saved, weights


@pytest.fixture
def folder(tmp_path):
    """A model's folder."""
    return folder_of(tmp_path, weights("sd1"))[1]


@pytest.mark.parametrize(
    ("channels", "told"), [(9, "9 channels of input, and that of {} 4"), (8, "8 channels of input")]
)
def test_a_folder_of_another_input_is_refused_as_the_configuration(channels, told, folder, tmp_path, cli):
    painted = saved(tmp_path / "painted.safetensors", weights("sd1", channels=channels))
    done = cli("convert", painted, "--to", "diffusers", "-o", tmp_path / "out", "--config", folder)
    assert (done.status, told.format(folder) in done.err) == (2, True)
    assert not (tmp_path / "out").exists()
    adapterhub.convert(painted, tmp_path / "vae", to="diffusers", config=folder, only="vae")
    adapterhub.convert(painted, tmp_path / "right", to="diffusers")
    adapterhub.convert(painted, tmp_path / "again", to="diffusers", config=tmp_path / "right")
    assert document(tmp_path / "again", "unet/config.json")["in_channels"] == channels
    with pytest.raises(UsageError, match="4 channels of input"):
        adapterhub.convert(folder, tmp_path / "out", to="diffusers", config=tmp_path / "right")


@pytest.mark.parametrize("name", ["unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("given", [True, False], ids=["--config", "its own"])
def test_a_configuration_that_is_no_object_is_refused(name, given, folder, tmp_path):
    place = folder / name
    place.write_text(json.dumps([1]))
    asked = {"config": folder} if given else {}
    source = tmp_path / "model.safetensors" if given else folder
    with pytest.raises(MalformedFile, match="no object") as refused:
        adapterhub.convert(source, tmp_path / "out", to="diffusers", **asked)
    assert str(place) in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_configurations_are_asked_for_only_where_there_are_none(folder, tmp_path):
    source = tmp_path / "model.safetensors"
    advised = "A folder needs its own configurations then: --config DIR."
    given = adapterhub.convert(source, tmp_path / "given", to="diffusers", config=folder)
    cases = {
        "ours": (adapterhub.convert(source, tmp_path / "ours", to="diffusers"), advised),
        "given": (given, f"The folder has the configurations of {folder}."),
        "its own": (adapterhub.convert(folder, tmp_path / "back.safetensors", to="single-file"), None),
    }
    told = {
        case: [one.mend for one in done.problems if one.code == "other-widths"] for case, (done, _) in cases.items()
    }
    assert told == {case: [mend] for case, (_, mend) in cases.items()}
    assert [one.mend for one in adapterhub.inspect(folder).problems] == [None]


SLOTS = {"vae": ["diffusers", "AutoencoderKL"], "tokenizer": ["transformers", "CLIPTokenizer"], "scheduler": ["diffusers", "PNDMScheduler"]}  # fmt: skip


@pytest.mark.parametrize("said", [[None, None], None], ids=["null", "absent"])
@pytest.mark.parametrize("part", SLOTS)
def test_the_index_names_what_was_added_to_a_folder_that_lacked_it(part, said, folder, tmp_path):
    shutil.rmtree(folder / part)
    index = {name: row for name, row in document(folder, "model_index.json").items() if name != part}
    (folder / "model_index.json").write_text(json.dumps(index | ({part: said} if said else {})))
    adapterhub.convert(folder, tmp_path / "out", to="diffusers", vae=tmp_path / "model.safetensors")
    assert document(tmp_path / "out", "model_index.json") == index | {part: SLOTS[part]}
    assert any((tmp_path / "out" / part).iterdir())
