"""diffusers' `load_lora_weights` on the files that we write: every tensor is used, and ΔW is ours.

Where diffusers (0.42.1) itself reads Kohya's layout wrongly, the test says so and compares the rest:

* a module of an alpha that is not the file's commonest gets the commonest one, in the attentions of the UNet (the pattern
  is made for `attn1.processor.to_q_lora.down.weight`) and in text encoders (`self_attn`; `text_model.`, which is gone);
* `text_projection` is left out when ranks are counted, and must have the commonest (also in its layouts without alpha);
* `lora_unet_add_embedding_linear_1` and `_2` (diffusers' names for SDXL) become one key; LDM's `label_emb` does not;
* the refiner's Kohya files do not load at all: `input_blocks_1` is found in `input_blocks_10`.
"""

import warnings
from contextlib import contextmanager
from pathlib import Path

import diffusers
import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors import safe_open

from adapterhub.adapter import Module
from adapterhub.errors import LossyConversion
from adapterhub.operations.convert import convert

NAMES = ("sd1", "sd2", "sdxl")
UNIFORM = {"alpha": lambda number: 6.0}


def pipeline(models):
    """A pipeline of those components that LoRA files concern, and of nothing else."""
    parts = {"vae": None, "tokenizer": None, "scheduler": diffusers.EulerDiscreteScheduler(steps_offset=1), **models}
    if "text_encoder_2" in models:
        return diffusers.StableDiffusionXLPipeline(
            **{"text_encoder": None, "tokenizer_2": None, "add_watermarker": False, **parts}
        )
    return diffusers.StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def load(bench, models, path: Path) -> dict[Module, LoraLayer]:
    """The adapters that diffusers puts into the models."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # PEFT's word for a pattern that fits no module
        pipeline(models).load_lora_weights(str(path.parent), weight_name=path.name)
    return bench.layers(models, (LoraLayer,))


def delta(layer: LoraLayer) -> torch.Tensor:
    (name,) = layer.active_adapters
    return layer.get_delta_weight(name)


def deltas_of(layers: dict[Module, LoraLayer]) -> dict[Module, torch.Tensor]:
    return {module: delta(layer) for module, layer in layers.items()}


def in_attention(module: Module) -> bool:
    return ".attn" in module.module or ".self_attn." in module.module


def ranked(number: int, module: Module) -> int:
    """Two ranks, the commoner one for `text_projection`."""
    return 2 if number % 5 == 2 and module.module != "text_projection" else 4


def tensors_in(path: Path) -> int:
    with safe_open(path, "pt") as file:
        return len(file.keys())


@pytest.fixture(scope="module", params=[*NAMES, "sdxl-refiner"])
def loaded(request, bench, tmp_path_factory):
    """A Kohya file of mixed ranks and alphas in diffusers' layout, in the models that it was loaded into."""
    source = bench.kohya(request.param)
    target = tmp_path_factory.mktemp("diffusers") / "pytorch_lora_weights.safetensors"
    convert(source, target, to="diffusers", architecture=request.param)
    models = bench.models(request.param)
    return request.param, source, target, models, load(bench, models, target)


def test_diffusers_loads_every_module_of_its_own_layout_at_its_own_scale(bench, loaded):
    name, source, target, _, layers = loaded
    assert layers.keys() == bench.layers(bench.models(name)).keys()
    assert tensors_in(target) == 2 * len(layers)
    assert bench.far(deltas_of(layers), bench.changes(source, name)) == []


def inputs(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    if not isinstance(model, diffusers.UNet2DConditionModel):
        return {"input_ids": torch.randint(3, 64, (1, 7), generator=generator)}
    given = {
        "sample": torch.randn(1, 4, 16, 16, generator=generator),
        "timestep": torch.tensor([3]),
        "encoder_hidden_states": torch.randn(1, 5, 24, generator=generator),
    }
    if model.config.addition_embed_type:
        sizes = (model.config.projection_class_embeddings_input_dim - 32) // model.config.addition_time_embed_dim
        embeds = torch.randn(1, 32, generator=generator)
        given["added_cond_kwargs"] = {"text_embeds": embeds, "time_ids": torch.ones(1, sizes)}
    return given


@contextmanager
def at_strength(model, strength: float):
    """The model with its adapter at a strength: ΔW of these random factors swamps W at 1."""
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    for layer in layers:
        layer.set_scale(layer.active_adapters[0], strength)
    yield model
    for layer in layers:
        layer.set_scale(layer.active_adapters[0], 1.0)


def test_a_model_with_the_lora_computes_what_the_fused_weights_compute(bench, loaded):
    name, source, _, models, _ = loaded
    changes = {
        module: change._replace(weight=0.01 * change.weight) for module, change in bench.changes(source, name).items()
    }
    for component, fused in bench.fused(bench.models(name), changes).items():
        given, base = inputs(fused), bench.models(name)[component]
        with torch.no_grad(), at_strength(models[component], 0.01) as adapted:
            plain, expected, found = (model(**given)[0] for model in (base, fused, adapted))
        assert (expected - plain).abs().max() > 0.01 * plain.abs().max()
        assert (found - expected).abs().max() < 1e-3 * (expected - plain).abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_diffusers_loads_every_module_of_its_layout_of_0_20_with_alpha_folded(bench, name, tmp_path, complaints):
    source = bench.kohya(name, rank=ranked)
    target = tmp_path / "lora.safetensors"
    convert(source, target, to="diffusers-lora-linear", architecture=name)
    layers = load(bench, bench.models(name), target)
    assert layers.keys() == bench.layers(bench.models(name)).keys()
    assert tensors_in(target) == 2 * len(layers)
    assert bench.far(deltas_of(layers), bench.changes(source, name)) == []
    assert complaints == []


@pytest.mark.parametrize("name", NAMES)
def test_diffusers_loads_every_module_of_its_layout_of_0_12_with_alpha_folded(bench, name, tmp_path, complaints):
    source = bench.kohya(name, only=in_attention)
    target = tmp_path / "lora.safetensors"
    convert(source, target, to="diffusers-attn-procs", architecture=name)
    layers = load(bench, bench.models(name), target)
    assert tensors_in(target) == 2 * len(layers)
    assert bench.far(deltas_of(layers), bench.changes(source, name)) == []
    assert complaints == []


@pytest.mark.parametrize("name", NAMES)
def test_diffusers_loads_every_module_of_kohyas_layout_where_alpha_is_the_same_everywhere(
    bench, name, tmp_path, complaints
):
    source = bench.kohya(name, rank=ranked, **UNIFORM)
    by_way_of, target = tmp_path / "comfyui.safetensors", tmp_path / "kohya.safetensors"
    convert(source, by_way_of, to="comfyui", architecture=name)
    convert(by_way_of, target, to="kohya", architecture=name)
    layers = load(bench, bench.models(name), target)
    assert layers.keys() == bench.layers(bench.models(name)).keys()
    assert tensors_in(target) == 3 * len(layers)
    assert bench.far(deltas_of(layers), bench.changes(source, name)) == []
    assert complaints == []


def test_diffusers_loads_every_module_of_kohyas_layout_with_its_own_names_but_sdxls_size_embedding(
    bench, tmp_path, complaints
):
    source = bench.kohya("sdxl", only=lambda module: "add_embedding" not in module.module, rank=ranked, **UNIFORM)
    target = tmp_path / "lora.safetensors"
    convert(source, target, to="kohya-diffusers-names", architecture="sdxl")
    layers = load(bench, bench.models("sdxl"), target)
    assert bench.far(deltas_of(layers), bench.changes(source, "sdxl")) == []
    assert complaints == []


def test_a_rarer_alpha_that_diffusers_misreads_in_kohyas_layout_is_one_of_those_it_is_known_to_misread(bench):
    source = bench.kohya("sd1")
    models = bench.models("sd1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # "alpha_pattern keys did not match": that is the defect
        pipeline(models).load_lora_weights(str(source.parent), weight_name=source.name)
    wrong = bench.far(deltas_of(bench.layers(models, (LoraLayer,))), bench.changes(source, "sd1"))
    assert all(module.component == "text_encoder" or in_attention(module) for module in wrong)


def magnitude(head, layer, module):
    """LyCORIS' DoRA magnitude along the output, near the norm of the weight."""
    weight = layer.weight.detach()
    norm = weight.flatten(1).norm(dim=1) + 0.5
    return {f"{head}.dora_scale": norm.reshape(-1, *(1,) * (weight.ndim - 1))}


def merged(layer: LoraLayer) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias that a layer has once its adapter is merged."""
    layer.merge()
    return layer.base_layer.weight.detach().clone(), layer.base_layer.bias


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_diffusers_uses_every_magnitude_of_a_dora(bench, name, tmp_path, complaints):
    source = bench.kohya(name, only=lambda module: "0" in module.module, extra=magnitude)
    target = tmp_path / "lora.safetensors"
    convert(source, target, to="diffusers", architecture=name)
    before = bench.layers(bench.models(name))
    layers = load(bench, bench.models(name), target)
    found = {module: merged(layer)[0] - before[module].weight for module, layer in layers.items()}
    assert tensors_in(target) == 3 * len(layers)
    assert bench.far(found, bench.changes(source, name)) == []
    assert complaints == []


def test_diffusers_adds_every_bias_at_the_scale_of_its_module(bench, tmp_path, complaints):
    def shift(head, layer, module):
        return {f"{head}.diff_b": torch.linspace(-1, 1, layer.bias.numel())}

    biased = {module for module, layer in bench.layers(bench.models("sd1")).items() if layer.bias is not None}
    source = bench.kohya("sd1", only=biased.__contains__, extra=shift)
    target = tmp_path / "lora.safetensors"
    convert(source, target, to="diffusers", architecture="sd1")
    before = bench.layers(bench.models("sd1"))
    layers = load(bench, bench.models("sd1"), target)
    changes = bench.changes(source, "sd1")
    assert layers.keys() == biased
    assert tensors_in(target) == 3 * len(biased)
    for module, layer in layers.items():
        weight, bias = merged(layer)
        torch.testing.assert_close(
            (weight - before[module].weight).double(), changes[module].weight, rtol=1e-5, atol=1e-4
        )
        torch.testing.assert_close((bias - before[module].bias).double(), changes[module].bias, rtol=1e-5, atol=1e-6)
    assert complaints == []


def along_the_input(head, layer, module):
    return {f"{head}.dora_scale": torch.ones(1, layer.weight.shape[1], *(1,) * (layer.weight.ndim - 2))}


def on_half_of_them(head, layer, module):
    return magnitude(head, layer, module) if "to_k" in head else {}


@pytest.mark.parametrize("layout", ["diffusers", "peft"])
@pytest.mark.parametrize("extra", [along_the_input, on_half_of_them])
def test_magnitudes_that_diffusers_and_peft_would_apply_otherwise_are_refused(bench, layout, extra, tmp_path):
    source = bench.kohya("sd1", only=in_attention, extra=extra)
    target = tmp_path / ("lora" if layout == "peft" else "lora.safetensors")
    with pytest.raises(LossyConversion):
        convert(source, target, to=layout, architecture="sd1")
    assert not target.exists()
