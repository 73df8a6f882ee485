"""PEFT on the directories that we write, and ours on those that it writes: every tensor is used, and ΔW is the same."""

import copy
import json
import warnings
from types import SimpleNamespace

import peft
import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from adapterhub.adapter import Module
from adapterhub.errors import LossyConversion, NeedsBase
from adapterhub.operations.convert import convert
from adapterhub.operations.lora import deltas
from adapterhub.operations.source import open_adapter

PLACES = ("down_blocks.1.attentions.0.", "down_blocks.1.resnets.0.", "mid_block.attentions.0.")
ATTENTION = ("to_q", "to_k", "to_v")
ALL = (*ATTENTION, "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "conv1", "conv_shortcut", "time_emb_proj")

# method → (config, its arguments, the leaves of its targets)
METHODS = {
    "lora": (peft.LoraConfig, {"r": 4, "lora_alpha": 6}, ALL),
    "lora by patterns": (
        peft.LoraConfig, {"r": 4, "lora_alpha": 6, "rank_pattern": {"to_k": 2}, "alpha_pattern": {"ff.net.2": 3}}, ALL,
    ),
    "rank-stabilised lora": (peft.LoraConfig, {"r": 3, "lora_alpha": 6, "use_rslora": True}, ALL),
    "dora": (peft.LoraConfig, {"r": 4, "lora_alpha": 6, "use_dora": True}, ALL),
    "lora with biases": (peft.LoraConfig, {"r": 4, "lora_alpha": 8, "lora_bias": True}, ("to_out.0", "ff.net.2", "conv1")),
    "adalora": (peft.AdaLoraConfig, {"init_r": 4, "target_r": 2, "lora_alpha": 6, "total_step": 9}, ATTENTION),
    "loha": (peft.LoHaConfig, {"r": 4, "alpha": 6, "rank_pattern": {"to_k": 2}}, ALL),
    "loha with cores": (peft.LoHaConfig, {"r": 4, "alpha": 6, "use_effective_conv2d": True}, ALL),
    "lokr": (peft.LoKrConfig, {"r": 2, "alpha": 6}, ALL),
    "lokr by factor": (peft.LoKrConfig, {"r": 2, "alpha": 6, "decompose_factor": 2}, ALL),
    "lokr of four factors": (peft.LoKrConfig, {"r": 1, "alpha": 6, "decompose_both": True}, ALL),
    "lokr of two factors": (peft.LoKrConfig, {"r": 64, "alpha": 16}, ALL),
    "lokr with cores": (
        peft.LoKrConfig, {"r": 1, "alpha": 3, "use_effective_conv2d": True, "decompose_factor": 4}, ALL,
    ),
    "ia3": (peft.IA3Config, {"feedforward_modules": ("ff.net.2", "proj_in")}, ALL),
    "ia3 on convolutions": (peft.IA3Config, {"feedforward_modules": ("conv_shortcut",)}, ("conv1", "conv_shortcut", "proj_in")),
    "oft": (peft.OFTConfig, {"oft_block_size": 4}, ALL),
    "oft by number of blocks": (peft.OFTConfig, {"r": 2, "oft_block_size": 0}, ATTENTION),
    "oft of one shared block": (peft.OFTConfig, {"oft_block_size": 4, "block_share": True}, ATTENTION),
    "oft by the exact transform": (peft.OFTConfig, {"oft_block_size": 4, "use_cayley_neumann": False}, ATTENTION),
    "boft": (peft.BOFTConfig, {"boft_block_size": 4}, ("to_q", "conv1")),
    "boft of two factors": (peft.BOFTConfig, {"boft_block_size": 4, "boft_n_butterfly_factor": 2}, ("to_q", "ff.net.2")),
    "boft by number of blocks": (peft.BOFTConfig, {"boft_block_size": 0, "boft_block_num": 4}, ("to_q", "conv1")),
}  # fmt: skip


def weights(model, targets):
    """Weight and bias of the targets in the UNet."""
    return values({Module("unet", name): model.get_submodule(name) for name in targets}, ())


def values(layers, modules):
    """Weight and bias of `modules`, or of all where there are none, in float64."""
    return {
        module: tuple(None if value is None else value.detach().double() for value in (layer.weight, layer.bias))
        for module, layer in layers.items()
        if not modules or module in modules
    }


def targeted(model, leaves):
    """The paths of those layers in PLACES that end in one of `leaves`."""
    return [name for name, _ in model.named_modules() if name.startswith(PLACES) and name.endswith(leaves)]


def settings(arguments, targets):
    """The arguments of a config for these targets, of which IA3's inputs have to be some."""
    forward = arguments.get("feedforward_modules")
    inputs = {} if forward is None else {"feedforward_modules": [name for name in targets if name.endswith(forward)]}
    return {"target_modules": targets, **arguments, **inputs}


def stirred(model):
    """Random values for everything that PEFT trains, small where they are the angles of a rotation."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ("oft_R" in name or "boft_R" in name):
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
        elif parameter.requires_grad and ("magnitude" in name or "ia3" in name or "boft_s" in name):
            parameter.data *= 1 + 0.2 * torch.randn(parameter.shape, generator=generator)
        elif parameter.requires_grad:
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="module", params=list(METHODS))
def saved(request, bench, tmp_path_factory):
    """A folder that PEFT saved, and the weights and biases before and after PEFT's merge."""
    config, arguments, leaves = METHODS[request.param]
    model = bench.models("sd1")["unet"]
    targets = targeted(model, leaves)
    before = weights(model, targets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(3)
        adapted = stirred(get_peft_model(model, config(**settings(arguments, targets))))
        folder = tmp_path_factory.mktemp("peft")
        adapted.save_pretrained(str(folder / "unet"))
        after = weights(adapted.merge_and_unload(), targets)
    return SimpleNamespace(folder=folder, targets=targets, before=before, after=after)


def assert_merged(after, before, changes, tolerance=2e-5):
    """Merged weights and biases are those before plus our changes, within what float32 leaves of them."""
    assert changes.keys() == before.keys()
    for module, (weight, bias) in before.items():
        new_weight, new_bias = after[module]
        change = changes[module]
        scale = max(weight.abs().max(), change.weight.abs().max())
        assert (new_weight - weight - change.weight).abs().max() <= tolerance * scale, module
        if bias is None:
            assert change.bias is None
        else:
            expected = bias if change.bias is None else bias + change.bias
            torch.testing.assert_close(new_bias, expected, rtol=1e-5, atol=1e-5)


def test_what_peft_saved_does_what_peft_merges(bench, saved):
    changes = bench.changes(saved.folder, "sd1")
    assert all(change.weight.abs().max() > 1e-3 for change in changes.values())
    assert_merged(saved.after, saved.before, changes)


def test_peft_loads_every_tensor_of_the_folder_that_we_write(bench, saved, tmp_path):
    convert(saved.folder, tmp_path / "again", to="peft", architecture="sd1")
    model = bench.with_peft(bench.models("sd1")["unet"], tmp_path / "again" / "unet")
    assert_merged(weights(model.merge_and_unload(), saved.targets), saved.before, bench.changes(saved.folder, "sd1"))


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_peft_loads_every_component_of_a_kohya_file(bench, name, tmp_path):
    source = bench.kohya(name)
    convert(source, tmp_path / "peft", to="peft", architecture=name)
    changes, found = bench.changes(source, name), {}
    for component, model in bench.models(name).items():
        before = bench.layers({component: copy.deepcopy(model)})
        after = bench.layers({component: bench.with_peft(model, tmp_path / "peft" / component).merge_and_unload()})
        found |= {module: after[module].weight - before[module].weight for module in before}
    assert bench.far(found, changes) == []


def magnitude(head, layer):
    norm = layer.weight.flatten(1).norm(dim=1) + 0.5
    return {f"{head}.dora_scale": norm.reshape(-1, *(1,) * (layer.weight.ndim - 1))}


def shift(head, layer):
    return {f"{head}.diff_b": torch.linspace(-1, 1, len(layer.bias))}


@pytest.mark.parametrize("extra", [magnitude, shift])
def test_peft_uses_every_magnitude_and_bias_of_a_kohya_file(bench, extra, tmp_path):
    leaves = (".to_out.0", ".conv1", ".fc1")
    source = bench.kohya(
        "sd1", only=lambda module: module.module.endswith(leaves), extra=lambda head, layer, module: extra(head, layer)
    )
    convert(source, tmp_path / "peft", to="peft", architecture="sd1")
    changes = bench.changes(source, "sd1")
    before = values(bench.layers(bench.models("sd1")), changes)
    merged = {
        component: bench.with_peft(model, tmp_path / "peft" / component).merge_and_unload()
        for component, model in bench.models("sd1").items()
    }
    assert_merged(values(bench.layers(merged), changes), before, changes)


def test_magnitudes_and_biases_together_are_refused_as_peft_does(bench, tmp_path):
    def both(head, layer, module):
        return magnitude(head, layer) | shift(head, layer)

    source = bench.kohya("sd1", only=lambda module: module.module.endswith(".to_out.0"), extra=both)
    with pytest.raises(LossyConversion):
        convert(source, tmp_path / "peft", to="peft", architecture="sd1")


class Corner(nn.Module):
    """Three layers of Stable Diffusion 1.x, at their true widths."""

    def __init__(self):
        super().__init__()
        self.conv_in = nn.Conv2d(4, 320, 3, padding=1)
        self.time_embedding = nn.ModuleDict({"linear_1": nn.Linear(320, 1280), "linear_2": nn.Linear(1280, 1280)})


def test_ia3_of_peft_is_the_same_in_kohyas_layout_where_the_base_tells_the_biases(bench, tmp_path):
    torch.manual_seed(6)
    model, targets = Corner(), ["conv_in", "time_embedding.linear_1", "time_embedding.linear_2"]
    (tmp_path / "base" / "unet").mkdir(parents=True)
    (tmp_path / "base" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    save_file(model.state_dict(), tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors")
    before = weights(copy.deepcopy(model), targets)
    config = peft.IA3Config(target_modules=targets, feedforward_modules=targets[1:2])
    adapted = stirred(get_peft_model(model, config))
    adapted.save_pretrained(str(tmp_path / "peft" / "unet"))
    after = weights(adapted.merge_and_unload(), targets)
    convert(tmp_path / "peft", tmp_path / "lora.safetensors", to="kohya", base=tmp_path / "base")
    with open_adapter(tmp_path / "lora.safetensors") as source:
        for module, roles in source.adapter.modules().items():
            (weight, bias), change = before[module], deltas.delta(roles)
            assert close(after[module][0] - weight, deltas.change(roles, weight), 1e-6)
            shift = change.bias()
            assert (shift is None) == (module.module == "time_embedding.linear_1")
            assert close(after[module][1], bias if shift is None else bias + shift, 1e-6)
        assert source.adapter.modules().keys() == before.keys()


def close(found, expected, tolerance):
    return bool((found - expected).abs().max() <= tolerance * max(1.0, float(expected.abs().max())))


def test_the_config_says_no_more_than_its_class_knows(saved, tmp_path):
    convert(saved.folder, tmp_path / "again", to="peft", architecture="sd1")
    written = json.loads((tmp_path / "again" / "unet" / "adapter_config.json").read_text("utf-8"))
    known = vars(peft.PeftConfig.from_pretrained(str(tmp_path / "again" / "unet")))
    assert written.keys() <= known.keys()


@pytest.mark.parametrize(
    "saved",
    ["lora", "lora by patterns", "rank-stabilised lora", "dora", "lora with biases", "loha", "loha with cores", "lokr",
     "lokr by factor", "lokr of four factors", "lokr with cores", "oft", "oft by number of blocks", "oft of one shared block"],
    indirect=True,
)  # fmt: skip
def test_a_folder_comes_back_from_kohyas_layout_with_the_same_tensors(saved, tmp_path):
    convert(saved.folder, tmp_path / "lora.safetensors", to="kohya", architecture="sd1")
    convert(tmp_path / "lora.safetensors", tmp_path / "again", to="peft", architecture="sd1")
    before, after = (
        load_file(folder / "unet" / "adapter_model.safetensors") for folder in (saved.folder, tmp_path / "again")
    )
    assert before.keys() == after.keys()
    assert [key for key in before if not torch.equal(before[key], after[key])] == []


@pytest.mark.parametrize(
    ("saved", "refusal"),
    [("boft", LossyConversion), ("oft by the exact transform", LossyConversion), ("ia3 on convolutions", NeedsBase)],
    indirect=["saved"],
)
def test_what_kohyas_layout_has_no_place_for_is_refused(saved, refusal, tmp_path):
    with pytest.raises(refusal):
        convert(saved.folder, tmp_path / "lora.safetensors", to="kohya", architecture="sd1")
