"""Models of which a component is missing, or that hold one of another architecture, or are of none that is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

import adapterhub
from adapterhub import architectures
from adapterhub.errors import BrokenAdapter
from tests.operations.checkpoint_files import UNET, document, empty, saved, weights
from tests.operations.test_checkpoint_faults import full

LACKING = "the model has no {}: a pipeline of it does not open, or makes no images"
ELSEWHERE = "get the model with its {}, or give that to the pipeline when it is opened"


def without(name, *parts):
    prefixes = tuple(architectures.get(name).parts[part].prefix for part in parts)
    return {place: tensor for place, tensor in weights(name).items() if not place.startswith(prefixes)}


CASES = [
    ("sd1", ["vae"]), ("sd2", ["text_encoder"]), ("sdxl", ["text_encoder_2"]), ("sdxl", ["text_encoder", "vae"]),
    ("sdxl-refiner", ["vae"]), ("sdxl", ["unet"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "gone"), CASES)
@pytest.mark.parametrize("to", ["diffusers", "single-file"])
def test_a_model_that_lacks_a_component_is_warned_of(name, gone, to, tmp_path, cli):
    source = saved(tmp_path / "model.safetensors", without(name, *gone))
    out = tmp_path / ("out" if to == "diffusers" else "out.safetensors")
    done = cli("convert", source, "-o", out, "--to", to, "--json")
    told = [problem for problem in json.loads(done.out)["problems"] if problem["code"] == "missing-components"]
    assert (done.status, [(problem["severity"], problem["message"]) for problem in told]) == (
        0, [("warning", LACKING.format(", ".join(gone)))],
    )  # fmt: skip
    rest = ELSEWHERE.format(", ".join(part for part in gone if part != "vae"))
    mends = ["--vae FILE adds a VAE"] * ("vae" in gone) + [rest] * (gone != ["vae"])
    assert told[0]["mend"] == f"{mends[0][0].upper()}{mends[0][1:]}{''.join(f'; {mend}' for mend in mends[1:])}."
    if to == "diffusers":
        assert [document(out, "model_index.json")[part] for part in gone] == [[None, None]] * len(gone)


def test_what_is_added_is_not_missing(plain, tmp_path):
    source = saved(tmp_path / "model.safetensors", without("sd1", "vae"))
    done = adapterhub.convert(source, tmp_path / "out", to="diffusers", vae=plain)
    assert "missing-components" not in {problem.code for problem in done.problems}


@pytest.mark.parametrize("asked", [{"to": "diffusers", "only": "unet"}, {"to": "single-file"}])
def test_a_component_alone_is_not_called_a_pipeline(asked, tmp_path):
    source = saved(tmp_path / "unet.safetensors", without("sd1", "vae", "text_encoder"))
    done = adapterhub.convert(source, tmp_path / f"out{'' if 'only' in asked else '.safetensors'}", **asked)
    assert "missing-components" not in {problem.code for problem in done.problems}


TITLES = {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "sdxl": "Stable Diffusion XL 1.0 base"}
MIXTURES = [
    ("sd1", ["unet", "vae"], "sdxl", ["text_encoder", "text_encoder_2"], "error"),
    ("sd1", ["unet", "vae", "text_encoder"], "sdxl", ["text_encoder", "text_encoder_2"], "error"),
    ("sd1", ["unet", "vae"], "sd2", ["text_encoder"], "error"), ("sdxl", ["unet", "vae"], "sd1", ["text_encoder"], "warning"),
]  # fmt: skip


def part_of(name, parts):
    prefixes = tuple(architectures.get(name).parts[part].prefix for part in parts)
    return {place: shape for place, shape in full(name).items() if place.startswith(prefixes)}


@pytest.mark.parametrize(("name", "parts", "other", "others", "severity"), MIXTURES)
def test_components_of_several_architectures_are_named(name, parts, other, others, severity, tmp_path):
    path = empty(tmp_path / "model.safetensors", {**part_of(name, parts), **part_of(other, others)})
    first, *_ = adapterhub.inspect(path).problems
    assert (first.severity, first.code) == (severity, "mixed-architectures")
    assert f"model.diffusion_model.* of {TITLES[name]}" in first.message
    assert "first_stage_model" not in first.message  # it is one and the same in all of them
    for part in others:
        assert f"{architectures.get(other).parts[part].prefix}* of {TITLES[other]}" in first.message
    if severity == "error":
        with pytest.raises(BrokenAdapter, match="components of several models in one file"):
            adapterhub.convert(path, tmp_path / "out", to="diffusers")


def test_a_model_of_one_architecture_with_strangers_is_no_mixture(tmp_path):
    path = empty(tmp_path / "model.safetensors", {**full("sd1"), "my.stranger": (2,)})
    assert [problem.code for problem in adapterhub.inspect(path).problems] == ["foreign-keys"]


PIPELINES = [("StableDiffusion3Pipeline", ["transformer", "text_encoder_3"]), ("FluxPipeline", ["transformer", "vae"])]


@pytest.mark.parametrize(("pipeline", "parts"), PIPELINES)
def test_a_folder_of_another_architecture_is_called_by_its_pipeline(pipeline, parts, tmp_path, cli):
    for part in parts:
        (tmp_path / "in" / part).mkdir(parents=True)
        stem = "model" if part.startswith("text") else "diffusion_pytorch_model"
        saved(tmp_path / "in" / part / f"{stem}.safetensors", {"encoder.norm.weight": np.ones(2, "f4")})
    index = {"_class_name": pipeline, **{part: ["diffusers", "X"] for part in parts}}
    (tmp_path / "in/model_index.json").write_text(json.dumps(index))
    done = cli("convert", tmp_path / "in", "-o", tmp_path / "out.safetensors", "--to", "single-file")
    assert (done.status, (tmp_path / "out.safetensors").exists()) == (3, False)
    assert f"a diffusers model for {pipeline} ({', '.join(parts)}), which is not supported" in done.err
    assert "It works on Stable Diffusion 1.x, Stable Diffusion 2.x" in done.err


SINGLE = [("double_blocks.0.img_attn.qkv.weight", "a model of Flux"), ("joint_blocks.0.x_block.attn.qkv.weight", "a model of Stable Diffusion 3")]  # fmt: skip


@pytest.mark.parametrize(("place", "title"), SINGLE)
@pytest.mark.parametrize("head", ["", UNET])
def test_a_file_of_another_architecture_is_called_by_its_name(place, title, head, tmp_path, cli):
    source = saved(tmp_path / "model.safetensors", {head + place: np.ones((2, 2), "f4"), f"{head}x": np.ones(2, "f4")})
    done = cli("convert", source, "-o", tmp_path / "out", "--to", "diffusers")
    assert (done.status, f"{source}: {title}, which is not supported" in done.err) == (3, True)
