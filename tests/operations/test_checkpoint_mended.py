"""What a conversion mends is told as mended; what it writes anew tells nothing of where it came from."""

from __future__ import annotations

import json

import numpy as np
import pytest

import adapterhub
from tests.operations.checkpoint_files import UNET, document, positions, saved, weights


def test_configurations_that_are_written_anew_name_no_origin(plain, tmp_path):
    adapterhub.convert(plain, tmp_path / "folder", to="diffusers")
    names = ["model_index.json", *(f"{part}/config.json" for part in ("unet", "vae", "text_encoder"))]
    for name in names:
        told = {**document(tmp_path / "folder", name), "_name_or_path": "/home/somebody/model", "mine": 1}
        (tmp_path / "folder" / name).write_text(json.dumps(told))
    adapterhub.convert(tmp_path / "folder", tmp_path / "out", to="diffusers", dtype="fp16")
    adapterhub.convert(plain, tmp_path / "given", to="diffusers", config=tmp_path / "folder")
    adapterhub.convert(tmp_path / "folder", tmp_path / "unet", to="diffusers", only="unet")
    for found in [*(document(tmp_path / out, name) for out in ("out", "given") for name in names),
                  document(tmp_path / "unet", "config.json")]:  # fmt: skip
        assert (found["mine"], "_name_or_path" in found) == (1, False)


MENDED = [
    ("position-ids", positions("sd1", "f4"), {}, {"to": "single-file"}, "Mended: they are written as 0, 1, 2 … in I64."),
    ("leftovers", {"model_ema.decay": np.ones(1, "f4")}, {}, {"prune": True}, "They were left out."),
    ("leftovers", {"model_ema.decay": np.ones(1, "f4")}, {}, {"to": "single-file"}, "adapterhub convert --prune leaves them out."),
    ("metadata-contradicts", {}, {"modelspec.architecture": "stable-diffusion-xl-v1-base"}, {"to": "single-file"},
     "Mended: what is written says what its weights are."),
]  # fmt: skip


@pytest.mark.parametrize(("code", "beside", "metadata", "asked", "mend"), MENDED)
def test_what_was_mended_is_told_as_mended(code, beside, metadata, asked, mend, tmp_path):
    source = saved(tmp_path / "model.safetensors", {**weights("sd1"), **beside}, metadata)
    done = adapterhub.convert(source, tmp_path / "out.safetensors", **asked)
    assert [problem.mend for problem in done.problems if problem.code == code] == [mend]
    left = {problem.code for problem in adapterhub.inspect(tmp_path / "out.safetensors").problems}
    assert (code in left) == mend.startswith("adapterhub")


@pytest.mark.parametrize("asked", [["--to", "single-file"], ["--only", "unet"]], ids=" ".join)
def test_a_dtype_for_a_vae_that_is_not_written_is_wrong_usage(asked, plain, tmp_path, cli):
    unet = {place: tensor for place, tensor in weights("sd1").items() if place.startswith(UNET)}
    source = plain if "--only" in asked else saved(tmp_path / "unet.safetensors", unet)
    done = cli("convert", source, "-o", tmp_path / "out.safetensors", "--vae-dtype", "fp16", *asked)
    assert (done.status, (tmp_path / "out.safetensors").exists()) == (2, False)
    assert "--vae-dtype is for a VAE, and none is written" in done.err
    added = cli("convert", source, "-o", tmp_path / "out.safetensors", "--vae-dtype", "fp16", "--vae", plain)
    assert added.status == 0
