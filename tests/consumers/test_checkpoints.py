"""Whole models there and back: what diffusers saves, what it reads of ours, and that both sample the same."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file, save_file

import adapterhub
from adapterhub import architectures
from adapterhub.adapter import Kind
from adapterhub.architectures.pipeline import documents
from adapterhub.files import DIRECTORY, SAFETENSORS, File, Package
from adapterhub.layouts import get
from adapterhub.layouts.base import Form
from adapterhub.tensors import LazyTensor
from tests.consumers.test_pipeline_documents import RED, SIZE, live, offline, whole, written

__all__ = ["offline"]

CLASSES = {
    "sd1": ("StableDiffusionPipeline", SIZE), "sd2": ("StableDiffusionPipeline", SIZE),
    "sdxl": ("StableDiffusionXLPipeline", SIZE),
    "sdxl-refiner": ("StableDiffusionXLImg2ImgPipeline", {"image": RED, "strength": 1.0}),
}  # fmt: skip
PLACES = {
    "sd1": {"model.diffusion_model": 686, "first_stage_model": 248, "cond_stage_model.transformer": 196},
    "sd2": {"model.diffusion_model": 686, "first_stage_model": 248, "cond_stage_model.model": 280},
    "sdxl": {
        "model.diffusion_model": 1680, "first_stage_model": 248, "conditioner.embedders.0.transformer": 196,
        "conditioner.embedders.1.model": 389,
    },
    "sdxl-refiner": {"model.diffusion_model": 1220, "first_stage_model": 248, "conditioner.embedders.0.model": 389},
}  # fmt: skip
"""Tensors of a published file by prefix, less position_ids, logit_scale and SD 2's block and projection that diffusers lacks."""
ENCODERS = {"text_encoder": 8, "text_encoder_2": 16}
"""Widths; diffusers tells the two of SDXL apart by them."""
WIDTHS = [8, 16, 24, 24]


@dataclass(frozen=True)
class Saved:
    """A tiny pipeline of the true modules, no two of whose tensors are equal; the folder that diffusers saved, and our file."""

    name: str
    pipeline: Any
    folder: Path
    single: Path
    entries: list[Any]

    @property
    def components(self) -> list[str]:
        return list(architectures.get(self.name).weights)


def narrow(name: str) -> dict[str, Any]:
    """Our documents with every layer and tiny widths."""
    files = dict(whole(name))
    texts = [width for part, width in ENCODERS.items() if f"{part}/config.json" in files]
    numbers = texts[-1] + 4 * (5 if name == "sdxl-refiner" else 6)
    unet = files["unet/config.json"]
    tiny: dict[str, dict[str, Any]] = {
        part: {"hidden_size": width, "intermediate_size": width, "num_attention_heads": 2, "projection_dim": width}
        for part, width in ENCODERS.items()
    }
    tiny["vae"] = {"block_out_channels": WIDTHS, "norm_num_groups": 4}
    tiny["unet"] = {
        "block_out_channels": WIDTHS[: len(unet["block_out_channels"])], "cross_attention_dim": sum(texts),
        "norm_num_groups": 4, "attention_head_dim": 2, "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": numbers,
    }  # fmt: skip
    for part, changes in tiny.items():
        if (place := f"{part}/config.json") in files:
            files[place] = {**files[place], **{key: value for key, value in changes.items() if key in files[place]}}
    return files


def made(name: str, folder: Path) -> Any:
    """The pipeline, saved into `folder` by diffusers."""
    torch.manual_seed(0)
    files = narrow(name)
    for component in architectures.get(name).weights:
        model: Any = live(files[f"{component}/config.json"])
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.05 * torch.randn_like(weight))
        model.save_pretrained(folder / "parts" / component)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(written(folder / "parts", files))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder / "theirs")
    return pipeline


@pytest.fixture(scope="module")
def saved_as(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Saved]:
    @cache
    def save(name: str) -> Saved:
        folder = tmp_path_factory.mktemp(name)
        pipeline = made(name, folder)
        done = adapterhub.convert(folder / "theirs", folder / "model.safetensors", to="single-file", verify=True)
        assert (done.exactness, done.max_error) == ("bit-exact", 0.0)
        return Saved(name, pipeline, folder / "theirs", folder / "model.safetensors", done.entries)

    return save


@pytest.fixture(params=architectures.NAMES)
def saved(request: pytest.FixtureRequest, saved_as: Callable[[str], Saved]) -> Saved:
    return saved_as(request.param)


def assert_same(pipeline: Any, expected: Saved) -> None:
    """Every weight of every component equals the original's."""
    for component in expected.components:
        assert_equal(getattr(pipeline, component), getattr(expected.pipeline, component))


def assert_equal(found: torch.nn.Module, wanted: torch.nn.Module) -> None:
    """The same weights, bit for bit."""
    left, right = found.state_dict(), wanted.state_dict()
    assert left.keys() == right.keys()
    assert [name for name in right if not torch.equal(left[name], right[name])] == []


def sampled(pipeline: Any, name: str) -> torch.Tensor:
    """One step of a pipeline from a fixed seed; where weights lie in a mapped file decides which kernels torch takes, and so the last
    bit, so that they are copied first.
    """
    for component in pipeline.components.values():
        for weight in component.parameters() if isinstance(component, torch.nn.Module) else ():
            weight.data = weight.data.clone()
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": 1, "output_type": "latent", "generator": generator, **CLASSES[name][1]}
    latents: torch.Tensor = pipeline("a cat!", **options).images
    assert bool(torch.isfinite(latents).all())
    return latents


def test_diffusers_loads_our_single_file_and_every_weight_is_used(saved: Saved, complaints: list[str]) -> None:
    reader = getattr(diffusers, CLASSES[saved.name][0])
    loaded = reader.from_single_file(str(saved.single), config=str(saved.folder), local_files_only=True)
    assert_same(loaded, saved)
    names = load_file(saved.single)
    assert names["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (24, 24, 1, 1)  # a convolution in LDM
    counted = {prefix: sum(name.startswith(prefix + ".") for name in names) for prefix in PLACES[saved.name]}
    assert (counted, complaints) == (PLACES[saved.name], [])
    assert len(names) == sum(counted.values())


def test_the_ledger_has_every_tensor_once(saved: Saved) -> None:
    sources = [place for entry in saved.entries for place in entry.source]
    weights = sum(len(getattr(saved.pipeline, component).state_dict()) for component in saved.components)
    assert len(sources) == len(set(sources)) == weights
    assert {entry.action for entry in saved.entries} <= {"rename", "reshape", "join"}
    assert {place for entry in saved.entries for place in entry.target} == set(load_file(saved.single))


def test_a_folder_that_we_make_of_it_samples_as_the_original(
    saved: Saved, tmp_path: Path, complaints: list[str]
) -> None:
    done = adapterhub.convert(saved.single, tmp_path / "ours", to="diffusers", config=saved.folder, verify=True)
    assert (done.exactness, done.max_error) == ("bit-exact", 0.0)
    opened = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "ours")
    assert (type(opened), complaints) == (type(saved.pipeline), [])
    assert_same(opened, saved)
    assert torch.equal(sampled(opened, saved.name), sampled(saved.pipeline, saved.name))


def test_the_level_that_transformers_dropped_makes_no_difference(saved: Saved, tmp_path: Path) -> None:
    other = tmp_path / "theirs"
    shutil.copytree(saved.folder, other)
    changed = 0
    for component in saved.components:
        if component.startswith("text_encoder"):
            path = other / component / "model.safetensors"
            tensors = load_file(path)
            short = not any(name.startswith("text_model.") for name in tensors)
            save_file({f"text_model.{name}" if short else name: tensor for name, tensor in tensors.items()}, path)
            changed += short
    assert changed == ("text_encoder" in saved.components)  # CLIPTextModel; the one with a projection kept the level
    adapterhub.convert(other, tmp_path / "model.safetensors", to="single-file")
    assert without_recipe(tmp_path / "model.safetensors") == without_recipe(saved.single)


WAYS: dict[str, tuple[dict[str, Any], str]] = {
    "a variant": ({"variant": "fp16"}, "diffusion_pytorch_model.fp16.safetensors"),
    "shards of a variant": (
        {"max_shard_size": "1MB", "variant": "fp16"}, "diffusion_pytorch_model.safetensors.index.fp16.json"
    ),
    "pickles in shards": (
        {"safe_serialization": False, "max_shard_size": "1MB"}, "diffusion_pytorch_model.bin.index.json"
    ),
}  # fmt: skip


def without_recipe(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and data of a file, but for what it tells of the file that it was made of."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header["__metadata__"].pop("adapterhub.recipe")
    return header, raw[start:]


@pytest.mark.parametrize(("way", "file"), WAYS.values(), ids=WAYS)
def test_however_diffusers_saves_it_the_single_file_is_the_same(
    saved_as: Callable[[str], Saved], way: dict[str, Any], file: str, tmp_path: Path
) -> None:
    saved = saved_as("sd1")
    saved.pipeline.save_pretrained(tmp_path / "theirs", **way)
    assert (tmp_path / "theirs" / "unet" / file).is_file()
    adapterhub.convert(tmp_path / "theirs", tmp_path / "model.safetensors", to="single-file")
    assert without_recipe(tmp_path / "model.safetensors") == without_recipe(saved.single)


def test_our_shards_open(saved_as: Callable[[str], Saved], tmp_path: Path) -> None:
    saved, out = saved_as("sdxl-refiner"), tmp_path / "ours"
    adapterhub.convert(saved.single, out, to="diffusers", config=saved.folder, shard_size=1 << 20, verify=True)
    (index,) = (out / "unet").glob("*.index.json")
    found = json.loads(index.read_text("utf-8"))
    weights = saved.pipeline.unet.state_dict()
    theirs = split_torch_state_dict_into_shards(
        {name: weights[name] for name in found["weight_map"]},
        filename_pattern="diffusion_pytorch_model{suffix}.safetensors",
        max_shard_size=1 << 20,
    )
    assert (found["weight_map"], found["metadata"]) == (theirs.tensor_to_filename, theirs.metadata)
    assert len(theirs.filename_to_tensors) > 1
    assert_same(diffusers.DiffusionPipeline.from_pretrained(out), saved)


def test_one_component_opens_with_its_own_class(
    saved_as: Callable[[str], Saved], tmp_path: Path, complaints: list[str]
) -> None:
    saved = saved_as("sdxl")
    for component in saved.components:
        wanted, out = getattr(saved.pipeline, component), tmp_path / component
        adapterhub.convert(saved.single, out, to="diffusers", config=saved.folder, only=component)
        assert_equal(type(wanted).from_pretrained(out), wanted)
    assert complaints == []


def test_a_vae_alone_is_what_the_reader_of_vaes_reads(saved_as: Callable[[str], Saved], tmp_path: Path) -> None:
    saved, out = saved_as("sdxl"), tmp_path / "vae.safetensors"
    adapterhub.convert(saved.folder, out, to="single-file", only="vae")
    reader: Any = diffusers.AutoencoderKL
    config = {"config": str(saved.folder), "subfolder": "vae", "local_files_only": True}
    assert_equal(reader.from_single_file(str(out), **config), saved.pipeline.vae)


def lazy(tensors: dict[str, torch.Tensor]) -> dict[str, LazyTensor]:
    """Tensors without bytes."""
    return {name: LazyTensor("F32", tuple(tensor.shape), tuple) for name, tensor in tensors.items()}


@pytest.mark.parametrize("name", architectures.NAMES)
def test_at_full_size_the_folder_has_every_tensor_of_the_live_models(name: str) -> None:
    files = documents(name, list(architectures.get(name).weights))
    stored = {}
    for component in architectures.get(name).weights:
        with torch.device("meta"):
            model = live(files[f"{component}/config.json"])
        parameters = dict(model.named_parameters())
        place = "model" if component.startswith("text_encoder") else "diffusion_pytorch_model"
        stored[f"{component}/{place}.safetensors"] = File(lazy(parameters))
    folder, single = get("diffusers", Kind.CHECKPOINT), get("single-file", Kind.CHECKPOINT)
    read: Any = folder
    adapter = read.decode(Package.new(stored, container=DIRECTORY)).adapter
    assert adapter.architecture == name
    one = single.encode(adapter, Form(SAFETENSORS, "")).package
    back: Any = single
    again = folder.encode(back.decode(one).adapter, Form(DIRECTORY, "")).package
    assert shapes(again) == shapes(Package.new(stored))


def shapes(package: Package) -> dict[str, tuple[int, ...]]:
    """By file and name, without the level that transformers dropped."""
    return {
        f"{path}:{name.removeprefix('text_model.')}": tensor.shape
        for path, file in package.files.items()
        for name, tensor in file.tensors.items()
    }
