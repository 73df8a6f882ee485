"""A component alone: its own configuration, and what tells for which model a VAE is."""

from __future__ import annotations

import json

import numpy as np
import pytest

import adapterhub
from adapterhub import architectures
from adapterhub.errors import BrokenAdapter
from tests.operations.checkpoint_files import POSITIONS, content, document, folder_of, positions, saved, weights

OWN = {"unet": {"sample_size": 96}, "vae": {"scaling_factor": 0.5}, "text_encoder": {"hidden_act": "gelu"}}


@pytest.mark.parametrize("part", OWN)
@pytest.mark.parametrize("only", [True, False])
def test_a_component_of_a_folder_keeps_its_configuration(part, only, tmp_path):
    _, folder = folder_of(tmp_path, weights("sd1"))
    config = document(folder / part, "config.json") | OWN[part]
    (folder / part / "config.json").write_text(json.dumps(config))
    done = adapterhub.convert(
        folder / part, tmp_path / "out", to="diffusers", dtype="fp16", only=part if only else None
    )
    assert document(tmp_path / "out" / ("" if only else part), "config.json") == config
    assert "latents-untold" not in {problem.code for problem in done.problems}


def test_a_configuration_of_something_else_is_not_taken(tmp_path):
    _, folder = folder_of(tmp_path, weights("sd1"))
    wanted = document(folder / "vae", "config.json")
    (folder / "vae/config.json").write_text(json.dumps(document(folder / "unet", "config.json")))
    adapterhub.convert(folder / "vae", tmp_path / "out", to="diffusers", only="vae")
    assert document(tmp_path / "out", "config.json") == wanted


@pytest.mark.parametrize(
    ("asked", "scale", "told"),
    [
        ({}, 0.18215, ["the VAE does not tell its model: taken as one of Stable Diffusion 1.x, for latents times 0.18215"]),
        ({"architecture": "sdxl"}, 0.13025, []),
        ({"config": "folder"}, 0.5, []),
    ],
)  # fmt: skip
def test_a_vae_alone_does_not_tell_for_which_latents_it_is(asked, scale, told, tmp_path):
    _, folder = folder_of(tmp_path, weights("sd1"))
    (folder / "vae/config.json").write_text(
        json.dumps(document(folder / "vae", "config.json") | {"scaling_factor": 0.5})
    )
    vae = saved(tmp_path / "vae.safetensors",
                {place: tensor for place, tensor in weights("sd1").items() if place.startswith("first_stage_model.")})  # fmt: skip
    asked = {name: tmp_path / value if name == "config" else value for name, value in asked.items()}
    done = adapterhub.convert(vae, tmp_path / "out", to="diffusers", only="vae", **asked)
    assert document(tmp_path / "out", "config.json")["scaling_factor"] == scale
    found = [problem for problem in done.problems if problem.code == "latents-untold"]
    assert [problem.message for problem in found] == told
    assert all(problem.mend == "Say it with --architecture." for problem in found)
    plain = adapterhub.convert(vae, tmp_path / "out.safetensors", to="single-file", dtype="fp16")
    assert "latents-untold" not in {problem.code for problem in plain.problems}  # whose readers know their model


def test_the_folder_of_another_model_is_taken_where_its_architecture_is_said(tmp_path, cli):
    _, folder = folder_of(tmp_path, weights("sdxl"))
    vae = saved(tmp_path / "vae.safetensors",
                {place: tensor for place, tensor in weights("sdxl").items() if place.startswith("first_stage_model.")})  # fmt: skip
    asked = ("convert", vae, "--to", "diffusers", "--only", "vae", "--config", folder, "-o", tmp_path / "out")
    refused = cli(*asked)
    assert (refused.status, "no pipeline of Stable Diffusion 1.x" in refused.err) == (2, True)
    assert "Say --architecture sd2 or sdxl or sdxl-refiner if it is of that, or leave --config out." in refused.err
    assert cli(*asked, "--architecture", "sdxl").status == 0
    assert document(tmp_path / "out", "config.json") == document(folder / "vae", "config.json")


@pytest.mark.parametrize(("name", "part", "taken"), [
    ("sdxl", "text_encoder", "sdxl"), ("sdxl-refiner", "text_encoder_2", "sdxl-refiner"), ("sd1", "text_encoder", "sd1"),
])  # fmt: skip
def test_a_component_alone_comes_back_from_a_folder_under_the_names_of_its_model(name, part, taken, tmp_path):
    prefix = architectures.get(name).parts[part].prefix
    ids = positions(name) if name in POSITIONS else {}
    own = {**{place: tensor for place, tensor in weights(name).items() if place.startswith(prefix)}, **ids}
    source = saved(tmp_path / "text.safetensors", own)
    adapterhub.convert(source, tmp_path / "folder", to="diffusers")
    told = adapterhub.inspect(tmp_path / "folder")
    assert told.architecture == taken
    ambiguous = [problem.message for problem in told.problems if problem.code == "ambiguous-architecture"]
    assert ambiguous == (["the weights are those of sd2 as well; taken as sd1"] if name == "sd1" else [])
    adapterhub.convert(tmp_path / "folder", tmp_path / "again.safetensors", to="single-file")
    assert content(tmp_path / "again.safetensors") == content(source)


def test_an_index_of_no_pipeline_of_its_architectures_tells_nothing(tmp_path):
    prefix = architectures.get("sdxl").parts["text_encoder"].prefix
    own = {place: tensor for place, tensor in weights("sdxl").items() if place.startswith(prefix)}
    adapterhub.convert(saved(tmp_path / "text.safetensors", own), tmp_path / "folder", to="diffusers")
    index = document(tmp_path / "folder", "model_index.json")
    for name in ("FluxPipeline", ["StableDiffusionXLPipeline"], None):
        (tmp_path / "folder/model_index.json").write_text(json.dumps({**index, "_class_name": name}))
        assert adapterhub.inspect(tmp_path / "folder").architecture == "sd1"


@pytest.mark.parametrize("mark", ["", "module."])
@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "sdxl-refiner"])
def test_a_unet_under_a_part_of_its_prefix_is_no_lora(name, mark, tmp_path):
    """`diffusion_model.…`, as LDM's DiffusionWrapper has it: the prefix of ComfyUI's LoRAs, whose IA3 ends in `.weight` as well."""
    unet = {place: held for place, held in weights(name).items() if place.startswith("model.diffusion_model.")}
    source = saved(
        tmp_path / "unet.safetensors", {mark + place.removeprefix("model."): held for place, held in unet.items()}
    )
    found = adapterhub.inspect(source)
    assert (found.kind, found.layout, found.architecture) == ("checkpoint", "single-file", name)
    assert list(found.components) == ["unet"]
    done = adapterhub.convert(source, tmp_path / "out.safetensors", to="single-file")
    assert content(tmp_path / "out.safetensors") == content(saved(tmp_path / "plain.safetensors", unet))
    assert {tuple(entry.source) for entry in done.entries} == {(place,) for place in content(source)}


@pytest.mark.parametrize("start", ["", "diffusion_model."])
@pytest.mark.parametrize("layout", ["single-file", "diffusers"])
def test_a_weight_that_is_there_with_its_prefix_and_without_is_refused(start, layout, tmp_path):
    """One would take the other's place."""
    prefix, tensors = "model.diffusion_model.", weights("sd1")
    unet = {start + place.removeprefix(prefix): held for place, held in tensors.items() if place.startswith(prefix)}
    source = saved(tmp_path / "unet.safetensors", {**unet, f"{prefix}out.0.bias": tensors[f"{prefix}out.0.bias"] + 1})
    with pytest.raises(
        BrokenAdapter, match=r"1 weights are there with their prefix and without: model\.diffusion_model\.out"
    ):
        adapterhub.convert(source, tmp_path / "out", to=layout)
    assert not (tmp_path / "out").exists()


def test_an_ia3_of_the_first_convolution_stays_a_lora(tmp_path):
    vector = {"diffusion_model.input_blocks.0.0.weight": np.ones((320, 1, 1, 1), "f4"),
              "diffusion_model.input_blocks.0.0.on_input": np.zeros((), "f4")}  # fmt: skip
    assert adapterhub.inspect(saved(tmp_path / "ia3.safetensors", vector)).kind == "lora"
