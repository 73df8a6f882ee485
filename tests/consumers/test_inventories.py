"""The inventories against the live classes of diffusers and transformers, and the rows against diffusers' converters."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers.loaders import single_file_utils

from adapterhub import architectures
from adapterhub.architectures import generate
from adapterhub.architectures.inventory import FOLDER

COMPONENTS = [(name, component) for name in architectures.NAMES for component in architectures.get(name).weights]
WIDTH = 2
Tensors = dict[str, torch.Tensor]


def config(name: str, component: str) -> dict[str, Any]:
    stored: dict[str, dict[str, Any]] = json.loads((FOLDER / "configs" / f"{name}.json").read_text("utf-8"))
    return stored[component]


def model(name: str, component: str) -> torch.nn.Module:
    """The component itself, without memory for its weights."""
    settings = config(name, component)
    with torch.device("meta"):
        if component == "unet":
            return diffusers.UNet2DConditionModel.from_config(settings)
        if component == "vae":
            return diffusers.AutoencoderKL.from_config(settings)
        encoder = {
            "text_encoder": transformers.CLIPTextModel,
            "text_encoder_2": transformers.CLIPTextModelWithProjection,
        }
        return encoder[component](transformers.CLIPTextConfig(**settings))


@pytest.mark.parametrize(("name", "component"), COMPONENTS)
def test_modules_are_those_of_the_live_model_in_its_order(name: str, component: str) -> None:
    modules = [(path, module) for path, module in model(name, component).named_modules() if hasattr(module, "weight")]
    prefix = "" if component != "text_encoder" or modules[0][0].startswith("text_model.") else "text_model."
    inventory = architectures.get(name)
    assert list(inventory.weights[component].items()) == [
        (prefix + path, tuple(module.weight.shape)) for path, module in modules
    ]
    assert inventory.biased[component] == {
        prefix + path for path, module in modules if getattr(module, "bias", None) is not None
    }


@pytest.mark.parametrize(("name", "component"), COMPONENTS)
def test_the_live_model_has_no_other_parameters_and_takes_every_setting(name: str, component: str) -> None:
    live = model(name, component)
    assert sum(1 for _ in live.parameters()) == sum(1 for _ in architectures.get(name).tensors(component))
    settings = {key: value for key, value in config(name, component).items() if key != "_class_name"}
    if component in ("unet", "vae"):
        taken = dict(live.config)
    else:  # `dropout` stands in the published files and is no setting of transformers any more
        taken = {**live.config.to_dict(), "dropout": settings["dropout"]}
    assert {
        key: list(value) if isinstance(value, tuple) else value for key, value in taken.items() if key in settings
    } == (settings)


def numbered(name: str, component: str) -> Tensors:
    """Every tensor of a component, tiny, with values of its own; attention and projections as WIDTH × WIDTH."""
    tensors = {}
    for number, (path, kind, _) in enumerate(architectures.get(name).tensors(component)):
        size = WIDTH * WIDTH if kind == "weight" else WIDTH
        values = torch.arange(size) + number * WIDTH * WIDTH
        tensors[f"{path}.{kind}"] = values.reshape(WIDTH, WIDTH) if kind == "weight" else values
    return tensors


def checkpoint(name: str, component: str, tensors: Tensors) -> Tensors:
    """`tensors` as the rows say that a single file holds them."""
    cross = {
        "same": lambda parts: parts[0],
        "stacked": torch.cat,
        "transposed": lambda parts: parts[0].T,
        "reshaped": lambda parts: parts[0][:, :, None, None],
    }
    return {
        row.place: cross[row.crossing]([tensors[tensor.removeprefix(f"{component}.")] for tensor in row.tensors])
        for row in architectures.get(name).single_file()
        if row.tensors[0].startswith(f"{component}.")
    }


def converted(name: str, component: str, stored: Tensors) -> Tensors:
    """What diffusers' own converter makes of a single file."""
    dialect = architectures.get(name).parts[component].dialect
    if component == "unet":
        return dict(single_file_utils.convert_ldm_unet_checkpoint(stored, config(name, component)))
    if component == "vae":
        return dict(single_file_utils.convert_ldm_vae_checkpoint(stored, config(name, component)))
    if dialect == "diffusers":
        return dict(single_file_utils.convert_ldm_clip_checkpoint(stored))
    prefix = architectures.get(name).parts[component].prefix
    size = SimpleNamespace(config=SimpleNamespace(hidden_size=WIDTH))
    return dict(single_file_utils.convert_open_clip_checkpoint(size, stored, prefix))


@pytest.mark.parametrize(("name", "component"), COMPONENTS)
def test_diffusers_reads_every_value_of_a_checkpoint_where_the_rows_put_it(name: str, component: str) -> None:
    tensors = numbered(name, component)
    found = converted(name, component, checkpoint(name, component, tensors))
    assert found.keys() == tensors.keys()
    assert [key for key in tensors if not torch.equal(found[key], tensors[key])] == []


def test_the_inventories_are_what_the_configurations_say() -> None:
    assert generate.main(["--check"]) == 0


def test_a_stale_inventory_is_named_and_rewritten_to_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "configs").mkdir()
    shutil.copy(FOLDER / "configs" / "sd1.json", tmp_path / "configs")
    true = (FOLDER / "sd1.json").read_text("utf-8")
    (tmp_path / "sd1.json").write_text(true.replace("[320, 4, 3, 3]", "[320, 9, 3, 3]"), "utf-8")
    assert generate.main(["--check"], tmp_path) == 1
    assert capsys.readouterr().out == "sd1.json is stale\n"
    assert generate.main([], tmp_path) == 0
    assert (tmp_path / "sd1.json").read_text("utf-8") == true
    assert generate.main(["--check"], tmp_path) == 0


def test_an_unknown_option_of_the_generator_writes_nothing(tmp_path: Path) -> None:
    assert generate.main(["--chekc"], tmp_path) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a.weight": (2, 2), "a.bias": (2,), "b.a.weight": (2, 2)}, "some have a bias and some do not: a"),
        ({"a.weight": (2, 3), "a.bias": (3,)}, "neither the weight of a module nor a bias along its rows"),
        ({"a.weight": (2, 3), "scale": (3,)}, "neither the weight of a module nor a bias along its rows"),
    ],
)
def test_what_an_inventory_cannot_say_is_refused(tensors: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate.unbiased_kinds(tensors)
