"""Inventories and checkpoint rows against lists that were enumerated from the original code and from diffusers."""

import json
import math
from pathlib import Path

import pytest

from adapterhub import architectures
from adapterhub.architectures import Row
from adapterhub.tensors import Shape

KEYMAPS = {"sd1": "sd15", "sd2": "sd21", "sdxl": "sdxl", "sdxl-refiner": "refiner"}
# The only encoder of the refiner is the second in diffusers, and the first in the reference.
RENAMED = {"refiner_text_encoder_2_hf": "refiner_text_encoder_hf"}
INPAINTING = {"sd1": "sd15_inpaint", "sd2": "sd2_inpaint", "sdxl": "sdxl_inpaint"}
LISTS = {"sd1": "sd15", "sd2": "sd21", "sdxl": "sdxl", "sdxl-refiner": "sdxl_refiner"}
COMPONENTS = [(name, component) for name in KEYMAPS for component in architectures.get(name).weights]
LDM = {"unet": "model.diffusion_model.", "vae": "first_stage_model."}


def keymap(folder: Path, name: str) -> dict[str, Shape]:
    stored = json.loads((folder / "keymaps" / f"{RENAMED.get(name, name)}.json").read_text("utf-8"))
    return {key: tuple(shape) for key, shape in stored.items()}


def canonical(key: str, component: str) -> str:
    """transformers 5.6 and later leave `text_model.` out of CLIPTextModel, from which the list was made."""
    return f"text_model.{key}" if component == "text_encoder" else key


def ours(name: str, component: str) -> dict[str, Shape]:
    return {f"{path}.{kind}": shape for path, kind, shape in architectures.get(name).tensors(component)}


def crossed(row: Row, shapes: dict[str, Shape]) -> Shape:
    """The shape that a checkpoint's tensor has, from the shapes of ours."""
    parts = [shapes[tensor] for tensor in row.tensors]
    return {
        "same": lambda: parts[0],
        "stacked": lambda: (sum(part[0] for part in parts), *parts[0][1:]),
        "transposed": lambda: parts[0][::-1],
        "reshaped": lambda: (*parts[0], 1, 1),
    }[row.crossing]()


def single_file(name: str) -> dict[str, Shape]:
    model = architectures.get(name)
    shapes = {
        f"{component}.{key}": shape for component in model.weights for key, shape in ours(name, component).items()
    }  # fmt: skip
    return {row.place: crossed(row, shapes) for row in model.single_file()}


@pytest.mark.parametrize(("name", "component"), COMPONENTS)
def test_tensors_are_those_of_the_reference_in_its_order(name: str, component: str, reference_data: Path) -> None:
    expected = keymap(reference_data, f"{KEYMAPS[name]}_{component}_hf")
    assert list(ours(name, component).items()) == [(canonical(key, component), expected[key]) for key in expected]


@pytest.mark.parametrize(("name", "component"), [(name, component) for name in KEYMAPS for component in LDM])
def test_checkpoint_tensors_are_those_of_the_reference(name: str, component: str, reference_data: Path) -> None:
    prefix = LDM[component]
    found = {key.removeprefix(prefix): shape for key, shape in single_file(name).items() if key.startswith(prefix)}
    assert found == keymap(reference_data, f"{KEYMAPS[name]}_{component}_ldm")


@pytest.mark.parametrize("name", INPAINTING)
def test_an_inpainting_model_differs_in_its_input_alone(name: str, reference_data: Path) -> None:
    expected = keymap(reference_data, f"{INPAINTING[name]}_unet_hf")
    assert expected["conv_in.weight"] == (320, 9, 3, 3)
    assert {**ours(name, "unet"), "conv_in.weight": (320, 9, 3, 3)} == expected


@pytest.mark.parametrize("name", LISTS)
def test_unet_modules_and_their_ldm_names_are_those_of_the_reference(name: str, reference_data: Path) -> None:
    stored = json.loads((reference_data / "unet_modules.json").read_text("utf-8"))[LISTS[name]]
    model = architectures.get(name)
    names = model.module_names("unet", "ldm")
    assert [(path, names[path], shape) for path, shape in model.weights["unet"].items()] == [
        (module["diffusers"], module["ldm"], tuple(module["weight_shape"])) for module in stored
    ]


@pytest.mark.parametrize(("name", "prefix", "width"), [
    ("sd2", "cond_stage_model.model.", 1024), ("sdxl", "conditioner.embedders.1.model.", 1280),
])  # fmt: skip
def test_an_openclip_encoder_keeps_its_size_and_stacks_three_projections(name: str, prefix: str, width: int) -> None:
    shapes = {key.removeprefix(prefix): shape for key, shape in single_file(name).items() if key.startswith(prefix)}
    assert shapes["transformer.resblocks.0.attn.in_proj_weight"] == (3 * width, width)
    assert shapes["transformer.resblocks.0.attn.in_proj_bias"] == (3 * width,)
    assert shapes["positional_embedding"] == (77, width)
    component = "text_encoder_2" if name == "sdxl" else "text_encoder"
    assert sum(map(math.prod, shapes.values())) == sum(map(math.prod, ours(name, component).values()))
