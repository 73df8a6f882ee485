"""What a model predicts, by its markers, its metadata, a YAML beside it or the scheduler of a folder, and what is written of it."""

from __future__ import annotations

import json

import numpy as np
import pytest

import adapterhub
from tests.operations.checkpoint_files import (
    MARKERS,
    UNET,
    content,
    document,
    folder_of,
    saved,
    weights,
)
from tests.operations.merge_files import lora

TELLING = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
VELOCITY = [
    ("sdxl", MARKERS, {}, "v_prediction"), ("sdxl", {}, {}, "epsilon"),
    ("sd1", {}, {"modelspec.prediction_type": "v"}, "v_prediction"), ("sd1", MARKERS, {}, "v_prediction"),
    ("sd2", {}, {"modelspec.predict_key": "epsilon"}, "epsilon"),
    ("sd2", {}, {"modelspec.architecture": "stable-diffusion-v2-768-v"}, "v_prediction"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "markers", "metadata", "prediction"), VELOCITY)
def test_the_scheduler_predicts_what_markers_and_metadata_say(name, markers, metadata, prediction, tmp_path):
    done, folder = folder_of(tmp_path, {**weights(name, "f2"), **markers}, metadata)
    scheduler = document(folder, "scheduler/scheduler_config.json")
    assert scheduler["prediction_type"] == prediction
    assert scheduler.get("rescale_betas_zero_snr", False) == (name == "sdxl" and bool(markers))
    assert [problem.code for problem in done.problems] == ["other-widths"]


MEAN, STD = [-1.6574, 1.886, -1.383, 2.5155], [8.4927, 5.9022, 6.5498, 5.2299]
EDM = {
    "edm_mean": {"edm_mean": np.float32(MEAN).reshape(1, 4, 1, 1), "edm_std": np.float32(STD).reshape(1, 4, 1, 1)},
    "edm_vpred.sigma_max": {"edm_vpred.sigma_max": np.array(120, "f4"), "edm_vpred.sigma_min": np.array(0.002, "f4")},
}
SAMPLED = {
    "edm_mean": {"_class_name": "EDMDPMSolverMultistepScheduler", "prediction_type": "epsilon", "sigma_data": 0.5,
                 "sigma_max": 80.0, "sigma_min": 0.002, "algorithm_type": "dpmsolver++", "solver_type": "midpoint"},
    "edm_vpred.sigma_max": {"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction", "sigma_data": 1.0,
                            "sigma_max": 120.0, "sigma_min": 0.002, "sigma_schedule": "exponential"},
}  # fmt: skip


@pytest.mark.parametrize("marker", EDM)
def test_a_folder_of_a_model_that_is_sampled_by_edm_says_how(marker, tmp_path):
    """The values of Playground 2.5 and CosXL."""
    done, folder = folder_of(tmp_path, weights("sdxl") | EDM[marker])
    assert [problem.code for problem in done.problems] == ["other-widths"]
    scheduler = document(folder, "scheduler/scheduler_config.json")
    assert scheduler == scheduler | SAMPLED[marker]
    assert document(folder, "model_index.json")["scheduler"] == ["diffusers", scheduler["_class_name"]]
    vae = document(folder, "vae/config.json")
    wanted = (MEAN, STD, 0.5) if marker == "edm_mean" else (None, None, 0.13025)
    assert (vae.get("latents_mean"), vae.get("latents_std"), vae["scaling_factor"]) == wanted
    adapterhub.convert(folder, tmp_path / "back.safetensors", to="single-file")
    assert content(tmp_path / "back.safetensors") == content(tmp_path / "model.safetensors")


@pytest.mark.parametrize(("channels", "edits"), [(4, None), (8, True)])
def test_a_model_of_cosxl_that_edits_says_so(channels, edits, tmp_path):
    _, folder = folder_of(tmp_path, weights("sdxl", "f4", channels) | EDM["edm_vpred.sigma_max"])
    assert document(folder, "model_index.json").get("is_cosxl_edit") is edits


@pytest.mark.parametrize("broken", [np.zeros(3, "f4"), np.full(4, np.nan, "f4"), np.zeros(4, "i4")], ids=str)
def test_markers_of_edm_that_tell_nothing_are_warned_of(broken, tmp_path):
    done, folder = folder_of(tmp_path, weights("sdxl") | {"edm_mean": broken, "edm_std": broken})
    assert [(problem.code, problem.where) for problem in done.problems] == [
        ("other-widths", ""), ("scheduler-untold", "edm_mean"),
    ]  # fmt: skip
    again = adapterhub.convert(tmp_path / "model.safetensors", tmp_path / "again", to="diffusers", config=folder)
    assert [problem.code for problem in again.problems] == ["other-widths"]


@pytest.mark.parametrize(("spread", "prediction"), [(0.089, "epsilon"), (0.091, "v_prediction")])
def test_what_sd2_predicts_is_guessed_as_comfyui_does_and_that_is_told(spread, prediction, tmp_path):
    tensors = weights("sd2")
    tensors[TELLING] = np.float32([spread, -spread])  # whose standard deviation is `spread`
    done, folder = folder_of(tmp_path, tensors)
    assert document(folder, "scheduler/scheduler_config.json")["prediction_type"] == prediction
    assert [problem.code for problem in done.problems] == ["other-widths", "prediction-guessed"]
    asked = {"to": "diffusers", "config": folder}
    again = adapterhub.convert(tmp_path / "model.safetensors", tmp_path / "again", **asked)
    assert [problem.code for problem in again.problems] == ["other-widths"]  # the folder says it


@pytest.mark.parametrize(
    ("line", "prediction"), [('    parameterization: "v"\n', "v_prediction"), ("x: 1\n", "epsilon")]
)
def test_the_yaml_beside_a_file_says_what_it_predicts(line, prediction, tmp_path):
    tensors = weights("sd2")
    tensors[TELLING] = np.float32([0.5, -0.5]) if prediction == "epsilon" else np.float32([0, 0])
    (tmp_path / "model.yaml").write_text(f"model:\n  params:\n{line}")
    _, folder = folder_of(tmp_path, tensors)
    assert document(folder, "scheduler/scheduler_config.json")["prediction_type"] == prediction
    adapterhub.convert(tmp_path / "model.safetensors", tmp_path / "out.safetensors", dtype="fp16")
    told = adapterhub.inspect(tmp_path / "out.safetensors").metadata
    id_, predicts = (told[f"modelspec.{name}"] for name in ("architecture", "prediction_type"))
    assert (id_, predicts) == (
        ("stable-diffusion-v2-768-v", "v") if prediction == "v_prediction" else ("stable-diffusion-v2-512", "epsilon")
    )


def test_what_the_scheduler_of_a_folder_says_is_told_in_a_single_file(tmp_path):
    saved(tmp_path / "a.safetensors", {**weights("sdxl"), "v_pred": np.zeros(0, np.float32)})
    adapterhub.convert(tmp_path / "a.safetensors", tmp_path / "folder", to="diffusers")
    adapterhub.convert(tmp_path / "folder", tmp_path / "b.safetensors", to="single-file")
    assert adapterhub.inspect(tmp_path / "b.safetensors").metadata["modelspec.prediction_type"] == "v"


@pytest.mark.parametrize(("line", "predicts"), [('    parameterization: "v"\n', "v"), ("x: 1\n", "epsilon")])
def test_a_merge_tells_what_the_yaml_beside_its_base_says(line, predicts, tmp_path):
    base = saved(tmp_path / "base.safetensors", weights("sd1", "f2"))
    adapterhub.merge(base, [lora(tmp_path / "lora.safetensors")], tmp_path / "silent.safetensors")
    assert "modelspec.prediction_type" not in adapterhub.inspect(tmp_path / "silent.safetensors").metadata
    base.with_suffix(".yaml").write_text(f"model:\n  params:\n{line}")
    adapterhub.merge(base, [tmp_path / "lora.safetensors"], tmp_path / "out.safetensors", undo=tmp_path / "undo")
    assert adapterhub.inspect(tmp_path / "out.safetensors").metadata["modelspec.prediction_type"] == predicts
    _, folder = adapterhub.convert(tmp_path / "out.safetensors", tmp_path / "out", to="diffusers"), tmp_path / "out"
    said = document(folder, "scheduler/scheduler_config.json")["prediction_type"]
    assert said == ("v_prediction" if predicts == "v" else "epsilon")
    adapterhub.unmerge(tmp_path / "out.safetensors", [], tmp_path / "back.safetensors", undo=tmp_path / "undo")
    assert (tmp_path / "back.safetensors").read_bytes() == base.read_bytes()


def test_a_merge_leaves_what_the_base_itself_says(tmp_path):
    base = saved(tmp_path / "base.safetensors", weights("sd1", "f2"), {"modelspec.prediction_type": "epsilon"})
    base.with_suffix(".yaml").write_text('    parameterization: "v"\n')
    adapterhub.merge(base, [lora(tmp_path / "lora.safetensors")], tmp_path / "out.safetensors")
    assert adapterhub.inspect(tmp_path / "out.safetensors").metadata["modelspec.prediction_type"] == "epsilon"


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_models_that_are_said_to_predict_something_else_are_not_the_same(name, tmp_path):
    scheduler, untold = "scheduler/scheduler_config.json", saved(tmp_path / "untold.safetensors", weights(name))
    for predicts in ("epsilon", "v_prediction"):
        folder = tmp_path / predicts
        adapterhub.convert(untold, folder, to="diffusers")
        (folder / scheduler).write_text(json.dumps(document(folder, scheduler) | {"prediction_type": predicts}))
        adapterhub.convert(folder, tmp_path / f"{predicts}.safetensors", to="single-file")
    noise, velocity = tmp_path / "epsilon", tmp_path / "v_prediction"
    for a in (noise, noise.with_suffix(".safetensors")):
        for b in (velocity, velocity.with_suffix(".safetensors")):
            found = adapterhub.diff(a, b)
            assert (found.equal, found.summary[0]) == (
                False,
                "The first is said to predict noise, the second velocity.",
            )
            assert adapterhub.diff(b, a).summary[0] == "The first is said to predict velocity, the second noise."
    assert adapterhub.diff(noise, noise.with_suffix(".safetensors")).equal
    assert adapterhub.diff(untold, noise).equal
    assert name == "sdxl" or adapterhub.diff(untold, velocity).equal
