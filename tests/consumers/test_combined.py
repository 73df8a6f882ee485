"""PEFT and diffusers on what `combine`, `scale` and `resize` write: every tensor is used, and what they add is the sum."""

import copy
import warnings

import diffusers
import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

import adapterhub
from tests.consumers.conftest import Change

WEIGHTS = (0.7, -0.4)


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def two(request, bench):
    """Two Kohya files of mixed ranks and alphas, the second without the UNet's convolutions, and Σ weight · ΔW."""
    first = bench.kohya(request.param)
    second = bench.kohya(request.param, only=lambda module: "conv" not in module.module, rank=lambda number, module: 3)
    tensors = {name: tensor.flip(0) if tensor.ndim else tensor for name, tensor in load_file(second).items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, second)
    found = [bench.changes(path, request.param) for path in (first, second)]
    summed = {
        module: Change(
            sum(weight * held[module].weight for weight, held in zip(WEIGHTS, found, strict=True) if module in held),
            None,
        )
        for module in found[0]
    }
    return request.param, [*zip((first, second), WEIGHTS, strict=True)], summed


def pipeline(models):
    """A pipeline of those components that LoRA files concern, and of nothing else."""
    parts = {"vae": None, "tokenizer": None, "scheduler": diffusers.EulerDiscreteScheduler(steps_offset=1), **models}
    if "text_encoder_2" in models:
        return diffusers.StableDiffusionXLPipeline(**{"tokenizer_2": None, "add_watermarker": False, **parts})
    return diffusers.StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def test_diffusers_computes_the_sum(bench, two, tmp_path, complaints):
    name, weighted, summed = two
    target = tmp_path / "lora.safetensors"
    done = adapterhub.combine(weighted, target, to="diffusers", architecture=name)
    assert (done.exactness, done.max_error < 1e-6) == ("exact", True)
    models = bench.models(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # PEFT's word for a pattern that fits no module
        pipeline(models).load_lora_weights(str(tmp_path), weight_name=target.name)
    layers = bench.layers(models, (LoraLayer,))
    assert (
        bench.far({module: layer.get_delta_weight(*layer.active_adapters) for module, layer in layers.items()}, summed)
        == []
    )
    assert complaints == []


def test_peft_computes_the_sum(bench, two, tmp_path):
    name, weighted, summed = two
    adapterhub.combine(weighted, tmp_path / "peft", to="peft", architecture=name)
    assert bench.far(merged(bench, name, tmp_path / "peft"), summed) == []


def test_peft_computes_a_part_of_what_was_scaled(bench, two, tmp_path):
    name, ((source, _), _), _ = two
    adapterhub.scale(source, tmp_path / "peft", 0.3, te=-2, to="peft", architecture=name)
    expected = {
        module: Change((0.3 if module.component == "unet" else -2) * change.weight, None)
        for module, change in bench.changes(source, name).items()
    }
    assert bench.far(merged(bench, name, tmp_path / "peft"), expected) == []


def test_peft_computes_the_best_approximation_of_what_was_resized(bench, two, tmp_path):
    name, ((source, _), _), _ = two
    adapterhub.resize(source, tmp_path / "peft", rank=2, to="peft", architecture=name)
    expected = {}
    for module, change in bench.changes(source, name).items():
        up, sizes, down = torch.linalg.svd(change.weight.flatten(1), full_matrices=False)
        expected[module] = Change((up[:, :2] * sizes[:2] @ down[:2]).reshape(change.weight.shape), None)
    assert bench.far(merged(bench, name, tmp_path / "peft"), expected) == []


def merged(bench, name, folder):
    """What PEFT adds to every weight."""
    found = {}
    for component, model in bench.models(name).items():
        before = bench.layers({component: copy.deepcopy(model)})
        after = bench.layers({component: bench.with_peft(model, folder / component).merge_and_unload()})
        found |= {module: after[module].weight - before[module].weight for module in before}
    return found
