"""The fingerprint of whole models."""

import pytest

import adapterhub
from adapterhub.fingerprint import fingerprint
from adapterhub.operations.source import open_adapter
from tests.operations.checkpoint_files import saved, weights


@pytest.mark.parametrize("folder", [False, True])
def test_a_whole_model_has_one_fingerprint_in_both_layouts_read_along_or_alone(tmp_path, folder):
    path = saved(tmp_path / "model.safetensors", weights("sdxl"))
    told = adapterhub.inspect(path, hash=True).fingerprint
    if folder:
        adapterhub.convert(path, tmp_path / "folder", to="diffusers")
        path = tmp_path / "folder"
    with open_adapter(path) as source:
        assert adapterhub.inspect(path, hash=True).fingerprint == fingerprint(source.adapter) == told
    changed = {name: tensor + (name == "first_stage_model.quant_conv.bias") for name, tensor in weights("sdxl").items()}
    assert adapterhub.inspect(saved(tmp_path / "other.safetensors", changed), hash=True).fingerprint != told
