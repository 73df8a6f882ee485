"""LyCORIS on the Kohya files that we write: every tensor is used, and a layer computes what ΔW says.

Compared in forward mode: LyCORIS 4.1.3 applies alpha / rank twice when it merges LoHa and LoKr. Its
`create_network_from_weights` fails on some of its own files (REBUILT says which); those are loaded by
`create_network(…).load_weights`, as a trainer that goes on does.
"""

import logging
import tomllib
from types import SimpleNamespace

import pytest
import torch
from lycoris.kohya import LycorisNetworkKohya, create_network, create_network_from_weights
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from adapterhub.adapter import Module
from adapterhub.operations.convert import convert

PRESET = """
enable_conv = true
unet_target_module = ["UNetMidBlock2DCrossAttn", "Downsample2D"]
unet_target_name = ["conv_in", "time_embedding.linear_1"]
text_encoder_target_module = ["CLIPMLP"]
text_encoder_target_name = []
"""

ALGORITHMS = {
    "lora": {"algo": "lora"},
    "locon with mid": {"algo": "lora", "use_tucker": True},
    "lora with norms": {"algo": "lora", "train_norm": True},
    "dora": {"algo": "lora", "dora_wd": True},
    "dora along the input": {"algo": "lora", "dora_wd": True, "wd_on_output": False},
    "loha": {"algo": "loha"},
    "loha with cores": {"algo": "loha", "use_tucker": True},
    "loha with dora": {"algo": "loha", "dora_wd": True},
    "lokr": {"algo": "lokr"},
    "lokr by factor": {"algo": "lokr", "factor": 2},
    "lokr by a large factor": {"algo": "lokr", "factor": 8},
    "lokr of four factors": {"algo": "lokr", "decompose_both": True, "rank": 1},
    "lokr of two factors": {"algo": "lokr", "full_matrix": True},
    "lokr with cores": {"algo": "lokr", "use_tucker": True, "rank": 1},
    "lokr with dora": {"algo": "lokr", "dora_wd": True},
    "ia3": {"algo": "ia3"},
    "oft": {"algo": "diag-oft", "constraint": 0.1},
    "oft with rescaling": {"algo": "diag-oft", "rescaled": True},
    "boft": {"algo": "boft", "rescaled": True, "rank": 4},
    "glora": {"algo": "glora"},
    "full": {"algo": "full"},
}
REBUILT = {"dora along the input", "lokr by a large factor", "lokr of four factors", "lokr with cores", "ia3"}
TO_PEFT = ["lora", "dora", "loha", "loha with cores", "lokr", "lokr by factor", "lokr of four factors", "lokr of two factors",
           "lokr with cores"]  # fmt: skip


class Leveled(nn.Module):
    """A CLIP with the level `text_model.` in its names, on which Kohya's names rest."""

    def __init__(self, encoder):
        super().__init__()
        self.text_model = encoder


def parts(bench, name="sd1"):
    """UNet and text encoders with the names that trainers know them by."""
    models = bench.models(name)
    return models["unet"], [
        model if hasattr(model, "text_model") else Leveled(model) for key, model in models.items() if key != "unet"
    ]


@pytest.fixture(scope="module", autouse=True)
def settled():
    """LyCORIS reports every step, and keeps the last preset for whoever names none: here that is ours, whatever ran before."""
    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    LycorisNetworkKohya.apply_preset(tomllib.loads(PRESET))


def network(unet, encoder, arguments, preset):
    settings = {"preset": str(preset), **arguments}
    rank = settings.pop("rank", 2)
    made = create_network(1.0, rank, 1.5 * rank, None, encoder, unet, **settings)
    made.apply_to(encoder, unet, True, True)
    return made


def stirred(made, algorithm):
    """Random values for everything that is trained, near the present ones where those are weights or magnitudes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            noise = 0.3 * torch.randn(parameter.shape, generator=generator)
            if "dora_scale" in name or "rescale" in name:
                parameter.mul_(1 + noise)
            elif algorithm == "full":
                parameter.add_(noise)
            elif "scalar" not in name:
                parameter.copy_(noise)


@pytest.fixture(scope="module", params=list(ALGORITHMS))
def trained(request, bench, tmp_path_factory):
    """A file that LyCORIS saved, and the one that we write after a turn through dotted names."""
    folder = tmp_path_factory.mktemp("lycoris")
    preset = folder / "preset.toml"
    preset.write_text(PRESET)
    arguments = ALGORITHMS[request.param]
    unet, (encoder,) = parts(bench)
    torch.manual_seed(0)
    made = network(unet, encoder, arguments, preset)
    stirred(made, arguments["algo"])
    source, dotted, target = (folder / f"{name}.safetensors" for name in ("saved", "dotted", "ours"))
    made.save_weights(str(source), None, {})
    convert(source, dotted, to="comfyui", architecture="sd1")
    convert(dotted, target, to="kohya", architecture="sd1")
    return SimpleNamespace(algorithm=request.param, arguments=arguments, preset=preset, source=source, target=target)


def test_a_turn_through_comfyuis_names_changes_no_tensor(trained):
    before, after = load_file(trained.source), load_file(trained.target)
    assert before.keys() == after.keys()
    assert [key for key in before if not same(before[key], after[key])] == []


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


def read_by_lycoris(trained, unet, encoder):
    """The network that LyCORIS makes of our file; what it would save again is what it has used of it."""
    if trained.algorithm in REBUILT:
        made = network(unet, encoder, trained.arguments, trained.preset)
        assert made.load_weights(str(trained.target)) == {}
        return made
    made, _ = create_network_from_weights(1.0, str(trained.target), None, encoder, unet)
    made.apply_to(encoder, unet, True, True)
    return made


def test_lycoris_uses_every_tensor_and_computes_what_we_say(bench, trained):
    unet, (encoder,) = parts(bench)
    made = read_by_lycoris(trained, unet, encoder)
    stored, used = load_file(trained.target), made.state_dict()
    assert {key.partition(".")[0] for key in stored} == {module.lora_name for module in made.loras}
    assert stored.keys() <= used.keys()
    other = [key for key in stored if not torch.allclose(used[key].float(), stored[key].float(), atol=1e-6)]
    assert [key for key in other if not scales_nothing(key, stored)] == []
    assert_computed(bench, {"unet": unet, "text_encoder": encoder}, bench.changes(trained.target, "sd1"))


def scales_nothing(key, stored) -> bool:
    """Whether a key is the alpha of a LoKr of two whole factors, which LyCORIS replaces by the rank, whatever it is."""
    head, _, role = key.partition(".")
    return role == "alpha" and {f"{head}.lokr_w1", f"{head}.lokr_w2"} <= stored.keys()


def assert_computed(bench, models, changes):
    """Every changed layer gives what its old weights plus our change give."""
    kinds = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)
    untouched = bench.layers(bench.models("sd1"), kinds)
    wrong = [module for module, change in changes.items() if not computes(models, untouched[module], module, change)]
    assert wrong == []


def computes(models, layer, module: Module, change) -> bool:
    weight = (layer.weight.double() + change.weight).float()
    bias = layer.bias
    if change.bias is not None:
        bias = change.bias.float() + (0 if bias is None else bias)
    given = batch(layer)
    with torch.no_grad():
        plain, found = layer(given), models[module.component].get_submodule(module.module).forward(given)
        expected = computed(layer, given, weight, bias)
    assert (expected - plain).abs().max() > 1e-4
    return bool((found - expected).abs().max() <= 1e-3 * (expected - plain).abs().max())


def batch(layer) -> torch.Tensor:
    generator = torch.Generator().manual_seed(9)
    channels = layer.weight.shape[-1] if isinstance(layer, nn.Linear | nn.LayerNorm) else layer.weight.shape[0]
    if isinstance(layer, nn.Conv2d):
        channels = layer.weight.shape[1]
    shape = (4, channels) if isinstance(layer, nn.Linear | nn.LayerNorm) else (2, channels, 5, 5)
    return torch.randn(shape, generator=generator)


def computed(layer, given, weight, bias) -> torch.Tensor:
    if isinstance(layer, nn.Conv2d):
        return functional.conv2d(given, weight, bias, layer.stride, layer.padding)
    if isinstance(layer, nn.Linear):
        return functional.linear(given, weight, bias)
    if isinstance(layer, nn.LayerNorm):
        return functional.layer_norm(given, layer.normalized_shape, weight, bias, layer.eps)
    return functional.group_norm(given, layer.num_groups, weight, bias, layer.eps)


@pytest.mark.parametrize("trained", TO_PEFT, indirect=True)
def test_a_file_of_lycoris_goes_to_peft_and_back_with_the_same_effect(bench, trained, tmp_path):
    convert(trained.source, tmp_path / "peft", to="peft", architecture="sd1")
    convert(tmp_path / "peft", tmp_path / "back.safetensors", to="kohya", architecture="sd1")
    before, after = bench.changes(trained.source, "sd1"), bench.changes(tmp_path / "back.safetensors", "sd1")
    assert bench.far({module: change.weight for module, change in after.items()}, before, 1e-12) == []


@pytest.mark.parametrize(("name", "layout"), [("sd1", "kohya"), ("sd2", "kohya"), ("sdxl", "kohya-diffusers-names")])
def test_lycoris_builds_every_module_of_a_lora_for_unet_and_text_encoders(bench, name, layout, tmp_path):
    source, target = bench.kohya(name), tmp_path / "lora.safetensors"
    convert(source, target, to=layout, architecture=name)
    unet, encoders = parts(bench, name)
    made, _ = create_network_from_weights(1.0, str(target), None, encoders if len(encoders) > 1 else encoders[0], unet)
    made.apply_to(encoders, unet, True, True)
    stored, used = load_file(target), made.state_dict()
    assert len(made.loras) == len(bench.layers(bench.models(name)))
    assert stored.keys() <= used.keys()
    assert [key for key in stored if not torch.allclose(used[key], stored[key])] == []
