"""The keys by which single files of SDXL tell how they are sampled, of folders whose scheduler tells it."""

from __future__ import annotations

import json

import pytest

import adapterhub
from tests.operations.checkpoint_files import MARKERS, content, document, folder_of, weights
from tests.operations.test_checkpoint_prediction import EDM

TOLD = [
    ("sdxl", {"v_pred": MARKERS["v_pred"]}), ("sdxl", MARKERS), ("sdxl", EDM["edm_mean"]), ("sdxl", EDM["edm_vpred.sigma_max"]),
    ("sdxl", {}),
]  # fmt: skip


def published(folder):
    """The folder as its author would publish it: without the file of ours."""
    (folder / "adapterhub_aside.safetensors").unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize(("name", "markers"), TOLD, ids=lambda told: str([*told]) if isinstance(told, dict) else told)
def test_a_single_file_has_the_keys_for_what_the_scheduler_of_a_folder_says(name, markers, tmp_path):
    folder = published(folder_of(tmp_path, {**weights(name), **markers})[1])
    done = adapterhub.convert(folder, tmp_path / "out.safetensors", to="single-file", verify=True)
    assert content(tmp_path / "out.safetensors") == content(tmp_path / "model.safetensors")
    told = {place: entry for entry in done.entries if not entry.source for place in entry.target}
    assert (told.keys(), {entry.action for entry in told.values()}) == (
        markers.keys(),
        {"metadata"} if markers else set(),
    )
    assert (
        done.exactness
        == adapterhub.convert(folder, tmp_path / "b.safetensors", to="single-file").exactness
        == "bit-exact"
    )
    assert adapterhub.diff(folder, tmp_path / "out.safetensors").equal
    adapterhub.convert(tmp_path / "out.safetensors", tmp_path / "again", to="diffusers")
    for file in ("scheduler/scheduler_config.json", "vae/config.json", "model_index.json"):
        assert document(tmp_path / "again", file) == document(folder, file)


def test_two_folders_of_one_model_that_are_sampled_in_other_ways_differ(tmp_path):
    folder = published(folder_of(tmp_path, {**weights("sdxl"), **MARKERS})[1])
    plain = published(tmp_path / "plain")
    adapterhub.convert(folder, plain, to="diffusers")
    assert adapterhub.diff(folder, plain).equal
    place = plain / "scheduler/scheduler_config.json"
    place.write_text(json.dumps(document(plain, "scheduler/scheduler_config.json") | {"prediction_type": "epsilon"}))
    found = adapterhub.diff(folder, plain)
    assert not found.equal
    assert [(extra.name, extra.fate) for extra in found.beside] == [("v_pred", "only_in_a")]


@pytest.mark.parametrize("metadata", [{"modelspec.prediction_type": "v"}])
def test_a_file_that_went_through_a_folder_gets_no_keys_that_it_had_not(metadata, tmp_path):
    _, folder = folder_of(tmp_path, weights("sdxl"), metadata)
    adapterhub.convert(folder, tmp_path / "back.safetensors", to="single-file")
    assert content(tmp_path / "back.safetensors") == content(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl-refiner"])
def test_other_architectures_have_no_such_keys(name, tmp_path):
    folder = published(folder_of(tmp_path, weights(name), {"modelspec.prediction_type": "v"})[1])
    adapterhub.convert(folder, tmp_path / "back.safetensors", to="single-file")
    assert content(tmp_path / "back.safetensors") == content(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("vae/config.json", {"latents_mean": [1, "x", 2, 3]}),
        ("vae/config.json", {"latents_std": [1.0, 2.0]}),
        ("vae/config.json", {"latents_std": None}),
    ],
)
def test_numbers_of_a_folder_that_are_none_become_no_keys(file, changes, tmp_path):
    folder = published(folder_of(tmp_path, {**weights("sdxl"), **EDM["edm_mean"]})[1])
    (folder / file).write_text(json.dumps(document(folder, file) | changes))
    adapterhub.convert(folder, tmp_path / "back.safetensors", to="single-file")
    assert content(tmp_path / "back.safetensors").keys() == weights("sdxl").keys()


def test_one_component_alone_has_no_keys(tmp_path):
    folder = published(folder_of(tmp_path, {**weights("sdxl"), **MARKERS})[1])
    adapterhub.convert(folder, tmp_path / "unet.safetensors", to="single-file", only="unet")
    assert not content(tmp_path / "unet.safetensors").keys() & MARKERS.keys()
