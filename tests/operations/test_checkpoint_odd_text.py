"""Text encoders of real models that are not what the rest of their architecture has."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

import adapterhub
from tests.operations.checkpoint_files import OPEN_CLIP, content, folder_content, saved, weights


@pytest.mark.parametrize("ending", [".weight", ".weight.weight"])
@pytest.mark.parametrize("name", ["sdxl", "sdxl-refiner"])
def test_a_text_projection_that_is_a_linear_layer_is_read_as_one(name, ending, tmp_path):
    """Playground v2; ComfyUI reads such as a linear layer, whose transpose is OpenCLIP's `text_projection`."""
    place = f"{OPEN_CLIP[name]}text_projection"
    usual = weights(name)
    odd = {there: tensor for there, tensor in usual.items() if there != place}
    odd[f"{place}{ending}"] = np.ascontiguousarray(usual[place].T)
    source, wanted = saved(tmp_path / "odd.safetensors", odd), saved(tmp_path / "usual.safetensors", usual)
    told = adapterhub.inspect(source)
    assert (told.architecture, told.extras, [problem.code for problem in told.problems]) == (name, {}, ["other-widths"])
    done = adapterhub.convert(source, tmp_path / "out.safetensors", to="single-file")
    assert (content(tmp_path / "out.safetensors"), done.exactness) == (content(wanted), "bit-exact")
    assert [entry.reason for entry in done.entries if entry.action == "reshape"] == ["transposed"]
    there = adapterhub.convert(source, tmp_path / "folder", to="diffusers")
    entries = {entry.source[0]: entry for entry in there.entries}
    assert (entries[f"{place}{ending}"].action, there.exactness) == ("rename", "bit-exact")
    adapterhub.convert(wanted, tmp_path / "same", to="diffusers")
    assert folder_content(tmp_path / "folder") == folder_content(tmp_path / "same")
    linear = load_file(tmp_path / "folder/text_encoder_2/model.safetensors")["text_projection.weight"]
    assert np.array_equal(linear, usual[place].T)


def test_a_text_projection_that_is_there_in_two_spellings_is_not_taken_twice(tmp_path):
    place = f"{OPEN_CLIP['sdxl']}text_projection"
    both = {there: tensor for there, tensor in weights("sdxl").items() if there != place}
    both |= {f"{place}.weight": np.float32([[1, 2], [3, 4]]), f"{place}.weight.weight": np.float32([[5, 6], [7, 8]])}
    source = saved(tmp_path / "both.safetensors", both)
    assert adapterhub.inspect(source).extras == {"foreign": 1}
    adapterhub.convert(source, tmp_path / "out.safetensors", to="single-file")
    found = content(tmp_path / "out.safetensors")
    assert found[place][2] == np.float32([[1, 3], [2, 4]]).tobytes()
    assert found[f"{place}.weight.weight"] == content(source)[f"{place}.weight.weight"]
