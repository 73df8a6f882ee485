"""A merge is what diffusers' `fuse_lora`, PEFT's `merge_and_unload` and LyCORIS' and PEFT's forward passes do with the same files."""

from __future__ import annotations

import copy
from pathlib import Path

import diffusers
import peft
import pytest
import torch
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from safetensors.torch import load_file, save_file
from torch import nn

from adapterhub import convert, merge
from adapterhub.adapter import Module

FILES = {"unet": "unet/diffusion_pytorch_model.safetensors", "text_encoder": "text_encoder/model.safetensors"}
STRENGTH = 0.7
SPREAD = 0.05


def saved(bench, folder: Path, name: str):
    """Tiny models as a diffusers folder of weights, in float32, and the models themselves."""
    models = {part: model for part, model in bench.models(name).items() if part in FILES}
    for part, model in models.items():
        (folder / part).mkdir(parents=True)
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / FILES[part])
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return models


def close(path: Path, model: nn.Module, before: nn.Module) -> None:
    """Every tensor of a file is the model's to 1e-6, and some moved."""
    found, expected, old = load_file(path), model.state_dict(), before.state_dict()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        scale = float(value.abs().max())
        assert float((found[key] - value).abs().max()) <= 1e-6 * max(scale, float((value - old[key]).abs().max())), key
    assert any(not torch.equal(found[key], value) for key, value in old.items())


def test_it_is_what_diffusers_fuses(bench, tmp_path: Path) -> None:
    models = saved(bench, tmp_path / "base", "sd1")
    before = copy.deepcopy(models)
    lora = bench.kohya("sd1", alpha=lambda number: 6.0, rank=lambda number, module: 4)
    merge(tmp_path / "base", [(lora, STRENGTH)], tmp_path / "out", architecture="sd1")
    convert(lora, tmp_path / "lora", to="diffusers", architecture="sd1")
    pipe = diffusers.StableDiffusionPipeline(
        **models, vae=None, tokenizer=None, scheduler=diffusers.EulerDiscreteScheduler(steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.load_lora_weights(str(tmp_path / "lora"))
    pipe.fuse_lora(lora_scale=STRENGTH)
    pipe.unload_lora_weights()
    for part, path in FILES.items():
        close(tmp_path / "out" / path, models[part], before[part])


@pytest.mark.parametrize("dora", [False, True])
def test_it_is_what_peft_merges(bench, tmp_path: Path, dora: bool) -> None:
    models = saved(bench, tmp_path / "base", "sd1")
    before = copy.deepcopy(models["unet"])
    torch.manual_seed(3)
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["to_q", "to_v", "ff.net.2", "conv1", "to_out.0"], use_dora=dora
    )
    adapted = peft.get_peft_model(models["unet"], config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * SPREAD)
    adapted.save_pretrained(str(tmp_path / "lora"))
    merge(tmp_path / "base", [tmp_path / "lora"], tmp_path / "out", architecture="sd1")
    close(tmp_path / "out" / FILES["unet"], adapted.merge_and_unload(), before)


LYCORIS = {
    "dora": (LoConModule, {"lora_dim": 4, "alpha": 2.0, "weight_decompose": True}),
    "loha": (LohaModule, {"lora_dim": 3, "alpha": 1.0}),
    "lokr": (LokrModule, {"lora_dim": 2, "alpha": 1.0, "factor": 2}),
    "ia3": (IA3Module, {}),
    "oft": (DiagOFTModule, {"lora_dim": 4}),
    "locon with a core": (LoConModule, {"lora_dim": 4, "alpha": 2.0, "use_tucker": True}),
}


@pytest.mark.parametrize(
    "path", ["mid_block.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.resnets.0.conv1"]
)
@pytest.mark.parametrize("name", LYCORIS)
def test_the_forward_of_lycoris_is_that_of_the_merged_weight(bench, tmp_path: Path, name: str, path: str) -> None:
    models = saved(bench, tmp_path / "base", "sd1")
    layer = bench.layers(models)[Module("unet", path)]
    algorithm, settings = LYCORIS[name]
    torch.manual_seed(5)
    live = algorithm("module", layer, **settings).eval()
    with torch.no_grad():
        for parameter in live.parameters():
            parameter.add_(torch.randn_like(parameter) * SPREAD)
    head = "lora_unet_" + path.replace(".", "_")
    save_file(
        {f"{head}.{key}": value.contiguous() for key, value in live.state_dict().items()}, tmp_path / "a.safetensors"
    )
    merge(tmp_path / "base", [tmp_path / "a.safetensors"], tmp_path / "out", architecture="sd1")
    weight = load_file(tmp_path / "out" / FILES["unet"])[f"{path}.weight"]
    rows = layer.weight.shape[1]
    x = torch.randn((3, rows) if isinstance(layer, nn.Linear) else (2, rows, 5, 5))
    with torch.no_grad():
        expected, plain = live(x), layer(x)
        merged = copy.deepcopy(layer)
        merged.weight.copy_(weight)
        found = merged(x)
    assert not torch.allclose(expected, plain, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)
