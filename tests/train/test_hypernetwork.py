"""Hypernetworks: what was trained is what A1111's formula makes of the file, and the model beside them does not move."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

import adapterhub.layouts as layouts
from adapterhub.adapter import Kind
from adapterhub.documents import HypernetworkSettings, HypernetworkStructure
from adapterhub.errors import RefusedInput, UnknownName, UsageError
from adapterhub.files import TORCH_ZIP
from adapterhub.hypernetworks import attach
from adapterhub.layouts.base import Form
from adapterhub.layouts.hypernetwork.structure import ACTIVATIONS, Net, structure_of
from adapterhub.operations.hypernetwork.network import Network
from adapterhub.operations.source import open_adapter
from adapterhub.train import hypernetwork as trainer
from adapterhub.train.base import opened
from adapterhub.train.beginning import begun, subject
from adapterhub.train.loop import Loop
from adapterhub.train.randomness import generator
from tests.operations.a1111_nets import loaded as loaded_by_a1111
from tests.train.steps import SHORT, digests, killed_and_resumed, loaded, same_pictures

PROMPT = "a photo of a fox"
WIDTHS = [8, 16, 24]
"""Contexts of the tiny UNet: of the prompt, and of self-attention."""


@pytest.fixture
def settings(base_of, pictures, tmp_path):
    """The settings of a short training of an architecture."""

    def make(name="sd1", **told):
        fields = {**SHORT, "base": str(base_of(name)), "images": str(pictures), "output": str(tmp_path / "out"), "captions": False,
                  "prompt": PROMPT}  # fmt: skip
        return HypernetworkSettings(**{**fields, **told})

    return make


def trained(told):
    """The base after a training, its nets, the digests of the base before it, and the loop."""
    with begun(told, force=True) as accelerator, opened(told.base, trainer.ARCHITECTURES) as base:
        before = digests(base)
        structure = trainer.structured(told, base)
        nets = trainer.attach(base, structure, told.seed)
        beside = nn.ModuleDict({f"{width}{half}": net for (width, half), net in nets.items()})
        loop = Loop(told, base, [subject(told, base, [PROMPT])], accelerator, beside=beside)
        loop.run()
        loop.denoiser.eval()
        return base, nets, before, loop


def seen(unet):
    """What a UNet makes of a latent and a prompt."""
    chance = torch.Generator().manual_seed(5)
    latent, prompt = torch.randn(2, 4, 8, 8, generator=chance), torch.randn(2, 5, 8, generator=chance)
    with torch.no_grad():
        return unet.eval()(latent, 500, prompt).sample


@pytest.mark.parametrize("name", ["sd1", "sd2"])
def test_the_base_does_not_move_and_the_file_does_what_was_trained(settings, name, tmp_path):
    told = settings(name, activation="relu", dropout=(0, 0.3, 0), widths="all")
    done = trainer.train(told)
    base, nets, before, loop = trained(told.model_copy(update={"output": str(tmp_path / "again")}))
    assert digests(base) == before
    assert {net.width for net in nets} == set(WIDTHS)
    assert loop.trained == done.trained == sum(2 * (4 * width * width + 3 * width) for width in WIDTHS)
    with opened(told.base, trainer.ARCHITECTURES) as fresh:
        plain = seen(fresh.unet)
        for file in done.files:
            with attach(fresh.unet, file.path):
                assert torch.equal(seen(fresh.unet), seen(base.unet))
    assert not torch.allclose(seen(base.unet), plain)


def test_samples_are_what_our_runtime_draws_without_dropout(settings, base_of, tmp_path):
    told = settings(dropout=(0, 0.5, 0), sample_count=2, sample_steps=2, learning_rate=0.05)
    done = trainer.train(told)
    pipe = loaded(base_of("sd1"))
    grid = tmp_path / "out/samples/step-000003.png"
    assert not same_pictures(grid, pipe, PROMPT, told, tmp_path)
    with attach(pipe, done.files[0].path):
        assert same_pictures(grid, pipe, PROMPT, told, tmp_path)


def test_a_killed_run_ends_with_the_bytes_of_one_that_was_not(settings, tmp_path):
    told = settings(dropout=(0, 0.5, 0), layer_norm=True, activation="swish", save_every=1)
    once, again = trainer.train(told), trainer.train(told, force=True)
    resumed = killed_and_resumed(trainer, told.model_copy(update={"output": str(tmp_path / "other" / "out")}))
    assert [file.sha256 for file in once.files] == [file.sha256 for file in again.files]
    assert [file.sha256 for file in once.files] == [file.sha256 for file in resumed.files]


def test_gradient_checkpointing_changes_no_gradient(settings):
    _, plain, _, _ = trained(settings(dropout=(0, 0.5, 0)))
    _, saving, _, _ = trained(settings(dropout=(0, 0.5, 0), gradient_checkpointing=True))
    for net, module in plain.items():
        for ours, theirs in zip(module.parameters(), saving[net].parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_micro_batches_add_up_to_the_batch(settings):
    told = settings(batch=4, optimizer="torch.optim:SGD", learning_rate=1.0)
    _, whole, _, once = trained(told)
    _, parts, _, twice = trained(told.model_copy(update={"micro_batch": 3}))
    assert once.losses == pytest.approx(twice.losses, rel=1e-5)
    for net, module in whole.items():
        for ours, theirs in zip(module.parameters(), parts[net].parameters(), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert max(float(net.linear[0].bias.detach().abs().max()) for net in whole.values()) > 1e-3


def test_nets_are_float32_while_the_rest_is_half(settings):
    base, nets, _, _ = trained(settings(precision="bf16"))
    assert base.unet.dtype == torch.bfloat16
    assert {parameter.dtype for net in nets.values() for parameter in net.parameters()} == {torch.float32}


@pytest.mark.parametrize(("widths", "wanted"), [("all", WIDTHS), ("text", [8]), ((24, 16, 24), [16, 24])])
def test_widths_come_from_the_attentions(settings, widths, wanted):
    told = settings(widths=widths)
    with opened(told.base, trainer.ARCHITECTURES) as base:
        structure = trainer.structured(told, base)
        assert structure.widths == wanted
        nets = trainer.attach(base, structure, 0)
        assert list(nets) == [Net(width, half) for width in wanted for half in "kv"]
        hooked = {module.in_features for module in base.unet.modules() if module._forward_pre_hooks}
        assert hooked == set(wanted)


STRUCTURES = [(1, 2, 1), (1, 1), (1, 1.5, 0.5, 1)]
TABLE = list(itertools.product(sorted(ACTIVATIONS), STRUCTURES, [False, True], [False, True], [False, True]))


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
def test_every_structure_reads_back_as_what_was_trained():
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, generator=chance)
    for activation, layers, norm, activate_output, dropped in TABLE:
        dropout = [0.0, *[0.5] * (len(layers) - 2), 0.0] if dropped else []
        structure = HypernetworkStructure(widths=[4], layer_structure=list(layers), activation=activation, layer_norm=norm,
                                          activate_output=activate_output, dropout=dropout if any(dropout) else None)  # fmt: skip
        nets = {Net(4, half): trainer.HypernetworkModule(4, structure).eval() for half in "kv"}
        for parameter in itertools.chain(*(net.parameters() for net in nets.values())):
            parameter.data = torch.randn(parameter.shape, generator=chance)
        adapter = trainer.adapter(_Sd1, nets, structure)
        layout = layouts.get("a1111", Kind.HYPERNETWORK)
        found = layout.decode(layout.encode(adapter, Form(TORCH_ZIP, "x")).package).adapter
        assert structure_of(found) == structure
        for net, module in nets.items():
            ours, theirs = module(x), Network(found, net)(x)
            assert torch.equal(ours.nan_to_num(), theirs.nan_to_num()), structure


class _Sd1:
    architecture = "sd1"


@pytest.mark.parametrize(("told", "inside"), [
    ({}, None),
    ({"activation": "relu"}, nn.ReLU()),
    ({"activation": "swish", "layer_norm": True}, nn.Hardswish()),
    ({"activation": "tanh", "activate_output": True}, nn.Tanh()),
])  # fmt: skip
def test_a_net_is_the_formula_written_out(told, inside):
    structure = HypernetworkStructure(widths=[6], layer_structure=[1, 2, 1], **told)
    net = trainer.HypernetworkModule(6, structure)
    net.initialize("Normal", structure.activation, generator(0, "x"))
    wide = net.double()
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    linears = [layer for layer in wide.linear if isinstance(layer, nn.Linear)]
    norms = [layer for layer in wide.linear if isinstance(layer, nn.LayerNorm)]
    found = x
    for number, layer in enumerate(linears):
        found = found @ layer.weight.T + layer.bias
        if inside is not None and (number == 0 or structure.activate_output):
            found = inside(found)
        if norms:
            mean, var = found.mean(-1, keepdim=True), found.var(-1, keepdim=True, unbiased=False)
            found = (found - mean) / (var + 1e-5).sqrt() * norms[number].weight + norms[number].bias
    assert torch.allclose(wide(x), x + found, rtol=0, atol=1e-14)


def test_a1111_and_torch_read_the_file(settings):
    done = trainer.train(
        settings(activation="relu", layer_norm=True, dropout=(0, 0.3, 0, 0), layer_structure=(1, 2, 0.5, 1))
    )
    tree = torch.load(done.files[0].path, weights_only=True)
    assert [key for key in tree if type(key) is int] == WIDTHS
    assert [list(half) for half in tree[8]] == [[f"linear.{index}.{name}" for index in (0, 2, 3, 5, 6, 7) for name in ("weight", "bias")]] * 2  # fmt: skip
    assert [tuple(tree[8][0][f"linear.{index}.weight"].shape) for index in (0, 3, 6)] == [(16, 8), (4, 16), (8, 4)]
    fields = {"name": "out", "step": 3, "layer_structure": [1, 2, 0.5, 1], "activation_func": "relu", "is_layer_norm": True,
              "weight_initialization": "Normal", "activate_output": False, "sd_checkpoint_name": "theirs",
              "sd_checkpoint": done.recipe.inputs[0].sha256[:10]}  # fmt: skip
    assert {field: tree[field] for field in fields} == fields
    assert set(loaded_by_a1111(Path(done.files[0].path))) == set(WIDTHS)
    told = [problem.message for problem in done.problems if problem.code == "comfyui-differs"]
    assert told[0] == "ComfyUI activates the last layer too if there are layer norms"


def test_both_files_say_the_same(settings):
    done = trainer.train(settings(dropout=(0, 0.25, 0), initialization="XavierNormal"))
    assert [(file.layout, Path(file.path).name) for file in done.files] == [
        ("a1111", "out.pt"),
        ("safetensors", "out.safetensors"),
    ]
    held = []
    for file in done.files:
        with open_adapter(Path(file.path), kinds=(Kind.HYPERNETWORK,)) as source:
            tensors = {key: b"".join(map(bytes, tensor.chunks())) for key, tensor in source.adapter.tensors.items()}
            held.append((structure_of(source.adapter), tensors))
    assert held[0] == held[1]
    assert held[0][0] == HypernetworkStructure(widths=WIDTHS, layer_structure=[1, 2, 1], dropout=[0, 0.25, 0],
                                               weight_initialization="XavierNormal")  # fmt: skip


SPREADS = {
    "Normal": (0.01, None), "XavierUniform": ((6 / 192) ** 0.5 / 3**0.5, (6 / 192) ** 0.5),
    "XavierNormal": ((2 / 192) ** 0.5, None), "KaimingUniform": ((2 / 64) ** 0.5, (6 / 64) ** 0.5),
    "KaimingNormal": ((2 / 64) ** 0.5, None),
}  # fmt: skip
"""σ of weights (128, 64), and the largest where there is one: Glorot and Bengio 2010, He et al. 2015."""


@pytest.mark.parametrize("activation", ["relu", "leakyrelu"])
@pytest.mark.parametrize(("how", "spread"), SPREADS.items())
def test_weights_are_drawn_as_a1111_draws_them(how, spread, activation):
    structure = HypernetworkStructure(widths=[64], layer_structure=[1, 2, 1], activation=activation, layer_norm=True)
    net = trainer.HypernetworkModule(64, structure)
    net.initialize(how, activation, generator(0, "x"))
    first, norm = net.linear[0], net.linear[2]
    assert float(first.weight.detach().std()) == pytest.approx(spread[0], rel=0.03)
    if spread[1] is not None:
        assert 0.99 * spread[1] < float(first.weight.detach().abs().max()) <= spread[1]
    assert float(norm.weight.detach().std()) == pytest.approx(0.01, rel=0.2)
    assert not any(layer.bias.any() for layer in net.linear if hasattr(layer, "bias"))


BAD = {
    "an end that is not 1": ({"layer_structure": (1, 2)}, UsageError, "layer structure 1, 2 does not begin and end with 1"),
    "a beginning that is not 1": ({"layer_structure": (2, 1)}, UsageError, "2, 1 does not begin"),
    "one layer": ({"layer_structure": (1,)}, UsageError, "does not begin and end"),
    "no layer": ({"layer_structure": ()}, UsageError, "does not begin and end"),
    "a negative layer": ({"layer_structure": (1, -2, 1)}, UsageError, "no net has such a structure"),
    "a layer of nothing": ({"layer_structure": (1, 0.01, 1)}, UsageError, "no room for a number"),
    "an unknown activation": ({"activation": "sine"}, UnknownName, "activation 'sine'"),
    "an activation that takes more": ({"activation": "glu"}, UnknownName, "activation 'glu'"),
    "capitals": ({"activation": "ReLU"}, UnknownName, "activation 'ReLU'"),
    "dropout for other layers": ({"dropout": (0, 0.3)}, UsageError, "dropout 0, 0.3 does not fit the layers 1, 2, 1"),
    "dropout of the last layer": ({"dropout": (0, 0, 0.3)}, UsageError, "does not fit"),
    "all dropped": ({"dropout": (0, 1, 0)}, UsageError, "no net has such a structure"),
    "a width that is not there": ({"widths": (16, 768)}, UsageError, "contexts of the width 768"),
    "no width": ({"widths": ()}, UsageError, "no widths were given"),
    "no caption": ({"prompt": None}, UsageError, "0.png has no caption"),
    "an unknown layout": ({"layouts": ("nope",)}, UnknownName, "nope"),
    "a layout that is only read": ({"layouts": ("nai",)}, UsageError, "layout nai"),
}  # fmt: skip


@pytest.mark.parametrize(("told", "error", "message"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_said_before_the_first_step(settings, told, error, message):
    steps = []
    with pytest.raises(error, match=message):
        trainer.train(settings(**told), watch=steps.append)
    assert steps == []


@pytest.mark.parametrize(
    "told", [{"initialization": "Orthogonal"}, {"layer_structure": (1, float("nan"), 1)}, {"layouts": ()}]
)
def test_settings_refuse_what_no_net_has(settings, told):
    with pytest.raises(ValidationError):
        settings(**told)


def test_sdxl_is_refused(settings):
    with pytest.raises(RefusedInput, match="architecture sdxl, and this trainer knows sd1, sd2"):
        trainer.train(settings("sdxl"))
