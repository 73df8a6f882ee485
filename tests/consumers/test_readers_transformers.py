"""Text encoders: transformers 5.6 dropped `text_model.` from the names of CLIPTextModel, and both spellings are about."""

import diffusers
import peft
import pytest
import torch
from peft import get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from adapterhub.adapter import Module
from adapterhub.operations.convert import convert

ENCODERS = ("text_encoder", "text_encoder_2")


def in_encoder(module: Module) -> bool:
    return module.component in ENCODERS


@pytest.mark.parametrize(("name", "component"), [("sd1", "text_encoder"), ("sd2", "text_encoder"), ("sdxl", "text_encoder"),
                                                 ("sdxl", "text_encoder_2")])  # fmt: skip
def test_transformers_loads_every_tensor_of_a_folder_for_peft(bench, name, component, tmp_path, complaints):
    source = bench.kohya(name, only=in_encoder)
    convert(source, tmp_path / "peft", to="peft", architecture=name)
    model = bench.models(name)[component]
    model.load_adapter(str(tmp_path / "peft" / component))
    layers = bench.layers({component: model}, (LoraLayer,))
    changes = {
        module: change for module, change in bench.changes(source, name).items() if module.component == component
    }
    found = {module: layer.get_delta_weight(layer.active_adapters[0]) for module, layer in layers.items()}
    assert len(load_file(tmp_path / "peft" / component / "adapter_model.safetensors")) == 2 * len(found)
    assert bench.far(found, changes) == []
    assert complaints == []


@pytest.fixture
def saved(bench, tmp_path):
    """What diffusers saves of a text encoder that PEFT has trained."""
    model = bench.models("sd1")["text_encoder"]
    torch.manual_seed(4)
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "fc1"], init_lora_weights=False)
    tensors = get_peft_model_state_dict(get_peft_model(model, config))
    tensors = {key.removeprefix("base_model.model."): value for key, value in tensors.items()}
    diffusers.StableDiffusionPipeline.save_lora_weights(
        str(tmp_path), text_encoder_lora_layers=tensors, text_encoder_lora_adapter_metadata=config.to_dict()
    )
    return tmp_path / "pytorch_lora_weights.safetensors"


def test_what_diffusers_saves_today_has_the_canonical_names_in_kohyas_layout(bench, saved, tmp_path):
    convert(saved, tmp_path / "lora.safetensors", to="kohya", architecture="sd1")
    tensors = load_file(tmp_path / "lora.safetensors")
    heads = {key.partition(".")[0] for key in tensors}
    assert heads == {
        f"lora_te_text_model_encoder_layers_{layer}_{leaf}"
        for layer in range(12)
        for leaf in ("self_attn_q_proj", "mlp_fc1")
    }
    stored = load_file(saved)
    (first,) = (key for key in stored if "layers.7.mlp.fc1.lora_A" in key)
    assert torch.equal(tensors["lora_te_text_model_encoder_layers_7_mlp_fc1.lora_down.weight"], stored[first])
    assert tensors["lora_te_text_model_encoder_layers_7_mlp_fc1.alpha"] == 6


@pytest.mark.parametrize("prefix", ["text_encoder.", "text_encoder.text_model."])
def test_both_spellings_of_a_text_encoder_do_the_same(bench, saved, prefix, tmp_path):
    tensors = {key.replace("text_model.", ""): value for key, value in load_file(saved).items()}
    spelled = {key.replace("text_encoder.", prefix): value for key, value in tensors.items()}
    save_file(spelled, tmp_path / "spelled.safetensors")
    convert(tmp_path / "spelled.safetensors", tmp_path / "lora.safetensors", to="diffusers", architecture="sd1")
    assert load_file(tmp_path / "lora.safetensors").keys() == {
        key.replace("text_encoder.", "text_encoder.text_model.") for key in tensors
    }
    expected = bench.changes(tmp_path / "spelled.safetensors", "sd1")
    found = bench.changes(tmp_path / "lora.safetensors", "sd1")
    assert bench.far({module: change.weight for module, change in found.items()}, expected, 0.0) == []
    assert len(expected) == 24
