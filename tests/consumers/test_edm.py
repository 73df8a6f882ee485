"""What diffusers makes of the folders of models that are sampled by EDM."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
from diffusers.loaders.single_file_utils import PLAYGROUND_VAE_SCALING_FACTOR, _legacy_load_scheduler

from tests.operations.checkpoint_files import document, folder_of, weights
from tests.operations.test_checkpoint_prediction import EDM, MEAN


@pytest.mark.parametrize("marker", EDM)
def test_the_scheduler_opens_with_every_setting_that_is_written(marker, tmp_path):
    _, folder = folder_of(tmp_path, weights("sdxl") | EDM[marker])
    told = document(folder, "scheduler/scheduler_config.json")
    scheduler = getattr(diffusers, told["_class_name"]).from_pretrained(folder / "scheduler")
    for name, value in told.items():
        if not name.startswith("_"):
            assert scheduler.config[name] == value
    scheduler.set_timesteps(4)
    sigmas = [float(sigma) for sigma in scheduler.sigmas]
    assert (sigmas[0], sigmas[-1]) == (pytest.approx(told["sigma_max"], rel=1e-5), 0.0)


def test_the_folder_of_playground_has_what_diffusers_makes_of_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "diffusers.loaders.single_file_utils.infer_diffusers_model_type", lambda checkpoint: "playground"
    )
    theirs = _legacy_load_scheduler(diffusers.EDMDPMSolverMultistepScheduler, {}, "scheduler").config
    _, folder = folder_of(tmp_path, weights("sdxl") | EDM["edm_mean"])
    ours = document(folder, "scheduler/scheduler_config.json")
    same = {name for name in theirs if not name.startswith("_") and name in ours}
    assert {name: theirs[name] for name in same} == {name: ours[name] for name in same}
    assert same == {name for name in ours if not name.startswith("_")}
    vae = document(folder, "vae/config.json")
    assert vae["scaling_factor"] == PLAYGROUND_VAE_SCALING_FACTOR
    opened = diffusers.AutoencoderKL.from_config(vae)
    assert list(np.float32(opened.config.latents_mean)) == list(np.float32(MEAN))
