"""Tiny models with the true modules, the files that trainers would write for them, and what we say that those do.

Identification needs true widths; these models have others, so that every conversion is told its architecture.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import diffusers
import pytest
import torch
import transformers
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from adapterhub import architectures
from adapterhub.adapter import Module
from adapterhub.architectures.inventory import FOLDER
from adapterhub.operations.lora import deltas
from adapterhub.operations.source import open_adapter

Models = dict[str, nn.Module]
PREFIXES = {
    "sd1": {"unet": "lora_unet_", "text_encoder": "lora_te_"},
    "sd2": {"unet": "lora_unet_", "text_encoder": "lora_te_"},
    "sdxl": {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"},
    "sdxl-refiner": {"unet": "lora_unet_", "text_encoder_2": "lora_te_"},
}
UNET = {
    "block_out_channels": [16, 32, 32, 32], "cross_attention_dim": 24, "attention_head_dim": 2, "norm_num_groups": 8,
    "sample_size": 8, "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 80,
}  # fmt: skip
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "projection_dim": 32, "vocab_size": 64}
ENCODERS = {"text_encoder": transformers.CLIPTextModel, "text_encoder_2": transformers.CLIPTextModelWithProjection}


class Change(NamedTuple):
    """ΔW and Δb of one module, in float64."""

    weight: Tensor
    bias: Tensor | None


class Workbench:
    """What the tests of the readers share."""

    def __init__(self, folder: Callable[[str], Path]) -> None:
        self.folder = folder

    def models(self, name: str) -> Models:
        """Fresh copies of the components of an architecture, always with the same weights."""
        return copy.deepcopy(built(name))

    def layers(
        self, models: Mapping[str, nn.Module], kinds: tuple[type, ...] = (nn.Linear, nn.Conv2d)
    ) -> dict[Module, nn.Module]:
        """The linear layers and convolutions by canonical path, whichever transformers it is."""
        return {
            Module(component, level(model, component) + path): layer
            for component, model in models.items()
            for path, layer in model.named_modules()
            if isinstance(layer, kinds)
        }

    def kohya(
        self,
        name: str,
        *,
        only: Callable[[Module], bool] = lambda module: True,
        rank: Callable[[int, Module], int] = lambda number, module: 2 if number % 5 == 2 else 4,
        alpha: Callable[[int], float] = lambda number: 3.0 if number % 4 == 1 else 6.0,
        extra: Callable[[str, nn.Module, Module], dict[str, Tensor]] = lambda head, layer, module: {},
    ) -> Path:
        """A LoRA as Kohya's trainer names it for every layer, of several ranks and alphas, none of them equal."""
        generator = torch.Generator().manual_seed(1)
        tensors: dict[str, Tensor] = {}
        layers = {module: layer for module, layer in self.layers(built(name)).items() if only(module)}
        for number, (module, layer) in enumerate(layers.items()):
            head, size, weight = spelled(name, module), rank(number, module), layer.weight
            ones = (1,) * (weight.ndim - 2)
            tensors[f"{head}.lora_down.weight"] = torch.randn(size, *weight.shape[1:], generator=generator)
            tensors[f"{head}.lora_up.weight"] = torch.randn(weight.shape[0], size, *ones, generator=generator)
            tensors[f"{head}.alpha"] = torch.tensor(alpha(number))
            tensors |= extra(head, layer, module)
        path = self.folder(name) / "lora.safetensors"
        save_file(tensors, path)
        return path

    def changes(self, path: Path, name: str) -> dict[Module, Change]:
        """What we say that a file does to the models of an architecture."""
        kinds = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)
        layers = self.layers(built(name), kinds)
        found = {}
        with open_adapter(path, architecture=name) as source:
            for module, roles in source.adapter.modules().items():
                layer = layers[module]
                weight = layer.weight.detach().double()
                old = layer.bias.detach().double() if layer.bias is not None else None
                change = deltas.change(roles, weight).reshape(weight.shape)
                found[module] = Change(change, deltas.delta(roles).bias(old))
        return found

    def fused(self, models: Models, changes: Mapping[Module, Change]) -> Models:
        """The models with the changes added to their weights."""
        kinds = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)
        layers = self.layers(models, kinds)
        with torch.no_grad():
            for module, change in changes.items():
                layers[module].weight += change.weight.float()
                if change.bias is not None:
                    layers[module].bias += change.bias.float()
        return models

    def with_peft(self, model: nn.Module, folder: Path) -> PeftModel:
        """The model with what PEFT reads from a folder; every key of the file is expected, and none is missing."""
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # missing keys, unknown settings, older files
            warnings.filterwarnings("ignore", "Failed to load the CUDA extension|Setting boft_n_butterfly_factor")
            adapted = PeftModel.from_pretrained(model, str(folder))
        report = set_peft_model_state_dict(adapted, load_peft_weights(str(folder)))
        assert report.unexpected_keys == []
        assert [key for key in report.missing_keys if adapted.base_model.prefix in key] == []
        return adapted

    def far(
        self, found: Mapping[Module, Tensor], expected: Mapping[Module, Change], tolerance: float = 1e-5
    ) -> list[Module]:
        """The modules whose ΔW is not the expected one within float32; all of them have to be there."""
        assert found.keys() == expected.keys()
        return [
            module
            for module, change in expected.items()
            if not close(found[module].detach().double(), change.weight, tolerance)
        ]


def close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether the largest difference is small against the largest value."""
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


def level(model: nn.Module, component: str) -> str:
    """`text_model.` where the class has dropped it from the names of its modules (CLIPTextModel, transformers ≥ 5.6)."""
    return "" if component == "unet" or hasattr(model, "text_model") else "text_model."


def spelled(name: str, module: Module) -> str:
    """The name of a module in Kohya's files: SDXL's UNet in LDM names."""
    dialect = "ldm" if name.startswith("sdxl") else "diffusers"
    path = architectures.get(name).module_names(module.component, dialect)[module.module]
    return PREFIXES[name][module.component] + path.replace(".", "_")


@cache
def built(name: str) -> Models:
    """The true blocks and layers at small widths, with random weights."""
    stored = json.loads((FOLDER / "configs" / f"{name}.json").read_text("utf-8"))
    torch.manual_seed(0)
    unet = stored["unet"]
    depth = len(unet["block_out_channels"])
    small = {key: value for key, value in UNET.items() if key in unet} | {
        "block_out_channels": UNET["block_out_channels"][:depth]
    }
    models: Models = {"unet": diffusers.UNet2DConditionModel.from_config({**unet, **small})}
    for component, encoder in ENCODERS.items():
        if component in stored:
            models[component] = encoder(transformers.CLIPTextConfig(**{**stored[component], **TEXT}))
    for model in models.values():
        model.eval().requires_grad_(False)
    return models


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return Workbench(tmp_path_factory.mktemp)


@pytest.fixture(scope="session", autouse=True)
def extensions_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """PEFT's BOFT tries to compile an extension, in the home folder unless told otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path_factory.mktemp("extensions")))
        yield


class Complaints(logging.Handler):
    """What the libraries say about keys that they did not expect, or miss, in spite of having been told to be quiet."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if any(word in record.getMessage().lower() for word in ("unexpected", "missing", "mismatch", "not compatible")):
            self.messages.append(record.getMessage())


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    handler = Complaints()
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers", "peft")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler.messages
    for logger in loggers:
        logger.removeHandler(handler)
