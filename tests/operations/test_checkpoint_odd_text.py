"""Text encoders of real models that are not what the rest of their architecture has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from transformers import CLIPTextConfig, CLIPTextModel

import adapterhub
from adapterhub import architectures
from tests.operations.checkpoint_files import OPEN_CLIP, content, document, empty, folder_content, saved, weights


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


CLIP = "cond_stage_model.transformer."
EMBEDDINGS = f"{CLIP}text_model.embeddings."


def longer(path, tokens=49408, positions=77):
    """The text encoder of SD 1 at its true size, in fp8."""
    model = architectures.get("sd1")
    shapes = {f"{CLIP}{module}.{kind}": shape for module, kind, shape in model.tensors("text_encoder")}
    shapes[f"{EMBEDDINGS}token_embedding.weight"] = (tokens, 768)
    shapes[f"{EMBEDDINGS}position_embedding.weight"] = (positions, 768)
    return empty(path, shapes)


def shapes_in(path):
    with safe_open(path, "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


LONGER = [
    ({"tokens": 49409}, [("tokens-added", "1 token added")]),
    ({"tokens": 49411, "positions": 248}, [("tokens-added", "3 tokens added"), ("more-positions", "248 positions, where others have 77")]),
]  # fmt: skip


@pytest.mark.parametrize(("more", "told"), LONGER)
def test_a_text_encoder_with_more_tokens_or_positions_is_no_damage(more, told, tmp_path):
    source = longer(tmp_path / "model.safetensors", **more)
    found = adapterhub.inspect(source)
    assert found.architecture == "sd1"
    assert [(one.code, one.message) for one in found.problems if one.code != "ambiguous-architecture"] == told
    done = adapterhub.convert(source, tmp_path / "folder", to="diffusers")
    assert [one.where for one in done.problems if one.code == "unknown-tokens"] == ["text_encoder"]
    config = document(tmp_path / "folder", "text_encoder/config.json")
    assert (config["vocab_size"], config["max_position_embeddings"]) == (more["tokens"], more.get("positions", 77))
    with torch.device("meta"):
        model = CLIPTextModel(CLIPTextConfig(**config))
    wanted = {f"text_model.{name.removeprefix('text_model.')}": tuple(held.shape) for name, held in model.named_parameters()}  # fmt: skip
    assert shapes_in(tmp_path / "folder/text_encoder/model.safetensors") == wanted
    adapterhub.convert(tmp_path / "folder", tmp_path / "back.safetensors", to="single-file")
    assert adapterhub.diff(source, tmp_path / "back.safetensors").equal


@pytest.mark.parametrize("less", [{"tokens": 49407}, {"positions": 76}], ids=str)
def test_a_text_encoder_with_fewer_is_damaged(less, tmp_path):
    found = adapterhub.validate(longer(tmp_path / "model.safetensors", **less))
    assert "shape-mismatch" in [problem.code for problem in found.problems if problem.severity == "error"]


def test_an_adapter_is_merged_into_a_text_encoder_with_more_tokens(tmp_path):
    source = longer(tmp_path / "model.safetensors", tokens=49409)
    place = "text_model.encoder.layers.3.self_attn.q_proj"
    head = f"lora_te_{place.replace('.', '_')}"
    pair = {f"{head}.lora_up.weight": np.ones((768, 1), "f2"), f"{head}.lora_down.weight": np.ones((1, 768), "f2")}
    lora = saved(tmp_path / "lora.safetensors", {**pair, f"{head}.alpha": np.array(1, "f2")})
    adapterhub.merge(source, [lora], tmp_path / "out.safetensors")
    assert shapes_in(tmp_path / "out.safetensors") == shapes_in(source)
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor(f"{CLIP}{place}.weight").float(), torch.ones(768, 768))
