"""Projections of attention blocks as linear layers and as 1×1 convolutions: SD 1 has these, SD 2 and XL those, some files not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import adapterhub
from tests.operations.checkpoint_files import UNET, Tensors, content, document, saved, weights
from tests.operations.merge_files import lora
from tests.operations.test_checkpoint_faults import empty, full

AXES = {"sd1": 2, "sd2": 4, "sdxl": 4}
"""How many a projection has in a file that is unlike most."""


def is_projection(place: str) -> bool:
    return place.startswith(UNET) and place.endswith((".proj_in.weight", ".proj_out.weight"))


def unusual(name: str) -> dict[str, np.ndarray]:
    return {place: (tensor.reshape(*tensor.shape[:2], *[1] * (AXES[name] - 2)) if is_projection(place) else tensor)
            for place, tensor in weights(name).items()}  # fmt: skip


@pytest.mark.parametrize("name", AXES)
def test_a_folder_has_the_projections_that_diffusers_expects_and_a_file_its_own_again(name, tmp_path):
    source = saved(tmp_path / "model.safetensors", unusual(name))
    assert {problem.code for problem in adapterhub.inspect(source).problems} == {"other-widths"}
    usual = saved(tmp_path / "usual.safetensors", weights(name))
    adapterhub.convert(usual, tmp_path / "wanted", to="diffusers")
    done = adapterhub.convert(source, tmp_path / "folder", to="diffusers", verify=True)
    unet = "unet/diffusion_pytorch_model.safetensors"
    assert content(tmp_path / "folder" / unet) == content(tmp_path / "wanted" / unet)
    turned = [
        entry.source[0] for entry in done.entries if entry.action == "reshape" and entry.source[0].startswith(UNET)
    ]
    assert (done.exactness, done.max_error) == ("bit-exact", 0.0)
    assert sorted(turned) == sorted(filter(is_projection, weights(name)))
    back = adapterhub.convert(tmp_path / "folder", tmp_path / "back.safetensors", to="single-file")
    assert (content(tmp_path / "back.safetensors"), back.exactness) == (content(source), "bit-exact")
    assert not {field for field in adapterhub.inspect(tmp_path / "back.safetensors").metadata if "axes" in field}
    adapterhub.convert(source, tmp_path / "copy.safetensors", prune=True)
    assert content(tmp_path / "copy.safetensors") == content(source)
    assert adapterhub.diff(source, usual).equal


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("alone", [False, True])
def test_a_model_at_full_size_is_known_by_its_widths_whatever_its_projections_are(name, alone, tmp_path):
    shapes = {place: ((*shape[:2], *[1] * (AXES[name] - 2)) if is_projection(place) else shape)
              for place, shape in full(name).items() if place.startswith(UNET) or not alone}  # fmt: skip
    told = adapterhub.inspect(empty(tmp_path / "model.safetensors", shapes))
    assert (told.architecture, told.problems) == (name, [])


def test_a_merge_leaves_projections_as_the_base_has_them(tmp_path):
    source = saved(tmp_path / "model.safetensors", unusual("sd1"))
    usual = saved(tmp_path / "usual.safetensors", weights("sd1"))
    given = lora(tmp_path / "lora.safetensors")
    for base in (source, usual):
        adapterhub.merge(base, [given], tmp_path / f"merged-{base.name}")
    merged, wanted = content(tmp_path / f"merged-{source.name}"), content(tmp_path / f"merged-{usual.name}")
    assert {place: shape for place, (_, shape, _) in merged.items()} == {
        place: tensor.shape for place, tensor in unusual("sd1").items()
    }
    assert {place: data for place, (_, _, data) in merged.items()} == {
        place: data for place, (_, _, data) in wanted.items()
    }


@pytest.fixture
def linear_folder(tmp_path: Path) -> Path:
    """A folder of SD 1 whose configuration says that its projections are linear, and they are."""
    folder = tmp_path / "linear"
    adapterhub.convert(saved(tmp_path / "usual.safetensors", weights("sd1")), folder, to="diffusers")
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors: Tensors = {
        place: np.frombuffer(data, dtype).reshape(shape) for place, (dtype, shape, data) in content(path).items()
    }
    wide = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    tensors[wide] = np.resize(tensors[wide], (320, 768))  # the width that is SD 1's alone
    linear = {
        place: (tensor[..., 0, 0] if ".proj_" in place and tensor.ndim == 4 else tensor)
        for place, tensor in tensors.items()
    }
    saved(path, linear)
    config = document(folder, "unet/config.json")
    (folder / "unet/config.json").write_text(json.dumps({**config, "use_linear_projection": True}))
    return folder


def test_the_configuration_of_a_folder_says_what_its_projections_are(linear_folder, tmp_path):
    adapterhub.convert(linear_folder, tmp_path / "out", to="diffusers")
    assert not document(tmp_path / "out", "unet/config.json")["use_linear_projection"]
    adapterhub.convert(linear_folder, tmp_path / "out.safetensors", to="single-file")
    found, wanted = content(tmp_path / "out.safetensors"), content(tmp_path / "usual.safetensors")
    assert {place for place in wanted if found[place] != wanted[place]} == {
        f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    }
    adapterhub.merge(linear_folder, [lora(tmp_path / "lora.safetensors")], tmp_path / "merged")
    assert document(tmp_path / "merged", "unet/config.json")["use_linear_projection"]
    unet = "unet/diffusion_pytorch_model.safetensors"
    shapes = [{place: shape for place, (_, shape, _) in content(folder / unet).items()}
              for folder in (tmp_path / "merged", linear_folder)]  # fmt: skip
    assert shapes[0] == shapes[1]
