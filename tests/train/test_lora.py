"""LoRA by itself: the layer against peft, where it is put, and what is left as it was."""

import hashlib
import math
from fnmatch import fnmatchcase

import peft
import pytest
import torch
from peft import LoraConfig
from torch import nn

from adapterhub import architectures
from adapterhub.adapter import Key, Module, Role
from adapterhub.documents import LoraSettings
from adapterhub.errors import UsageError
from adapterhub.tensors import item
from adapterhub.train import lora
from adapterhub.train.base import opened
from adapterhub.train.beginning import begun, subject
from adapterhub.train.loop import Loop
from adapterhub.train.lora import SETS, LoraLayer

LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (7, 6)), "linear without bias": (lambda: nn.Linear(6, 5, bias=False), (2, 7, 6)),
    "conv 1×1": (lambda: nn.Conv2d(6, 5, 1), (2, 6, 4, 4)), "conv 3×3": (lambda: nn.Conv2d(6, 5, 3, padding=1), (2, 6, 5, 4)),
    "conv 3×3, stride 2": (lambda: nn.Conv2d(6, 5, 3, stride=2, padding=1, bias=False), (2, 6, 5, 4)),
}  # fmt: skip
RANK, ALPHA = 3, 5.0


def both(make, dtype, *, dora, rslora):
    """Our layer and peft's with the same weights and factors, in `dtype`."""
    torch.manual_seed(1)
    layer = make().to(dtype).requires_grad_(False)
    scale = ALPHA / RANK**0.5 if rslora else ALPHA / RANK
    mine = LoraLayer(layer, RANK, ALPHA, scale, dora=dora).to(dtype)
    with torch.no_grad():
        mine.down.normal_()
        mine.up.normal_()
        if mine.magnitude is not None:
            mine.magnitude.mul_(1 + 0.3 * torch.rand_like(mine.magnitude))
    config = LoraConfig(
        r=RANK, lora_alpha=ALPHA, use_dora=dora, use_rslora=rslora, target_modules=["0"], lora_dropout=0.0
    )
    theirs = peft.get_peft_model(nn.Sequential(make()).to(dtype), config).base_model.model[0]
    with torch.no_grad():
        for parameter, value in wanted(theirs, mine, layer):
            parameter.data = value.clone().reshape(parameter.shape)
    return mine, theirs


def wanted(theirs, mine, layer):
    """(peft's parameter, what it is to hold)."""
    yield theirs.base_layer.weight, layer.weight.data
    if layer.bias is not None:
        yield theirs.base_layer.bias, layer.bias.data
    yield theirs.lora_A["default"].weight, mine.down.data
    yield theirs.lora_B["default"].weight, mine.up.data
    if mine.magnitude is not None:
        yield theirs.lora_magnitude_vector["default"].weight, mine.magnitude.data


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
@pytest.mark.parametrize(("dora", "rslora"), [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("name", LAYERS)
def test_the_layer_is_pefts_forward_and_backward(name, dora, rslora, dtype, close):
    make, shape = LAYERS[name]
    mine, theirs = both(make, dtype, dora=dora, rslora=rslora)
    x = torch.randn(shape, dtype=dtype)
    outputs = [layer(x) for layer in (mine, theirs)]
    torch.testing.assert_close(*outputs, rtol=close, atol=close)
    weights = torch.randn_like(outputs[0])
    for output in outputs:
        (output * weights).sum().backward()
    for parameter, value in wanted(theirs, mine, mine.layer):
        if parameter.requires_grad:
            ours = next(
                one
                for one in (mine.down, mine.up, mine.magnitude)
                if one is not None and one.data.data_ptr() == value.data_ptr()
            )
            torch.testing.assert_close(ours.grad, parameter.grad.reshape(ours.shape), rtol=10 * close, atol=10 * close)


@pytest.mark.parametrize("name", ["linear", "conv 3×3"])
@pytest.mark.parametrize("dora", [False, True])
def test_the_gradient_is_that_of_finite_differences(name, dora):
    """Of DoRA that of the magnitude alone: its norm counts as a constant for the rest (Liu et al. 2024, 4.3)."""
    make, shape = LAYERS[name]
    mine, _ = both(make, torch.float64, dora=dora, rslora=False)
    x = torch.randn(shape, dtype=torch.float64)
    for parameter in [mine.magnitude] if dora else [mine.down, mine.up]:
        assert torch.autograd.gradcheck(
            lambda value, p=parameter: _with(mine, p, value, x), parameter.detach().clone().requires_grad_(True)
        )


def _with(layer, parameter, value, x):
    name = next(name for name, one in layer.named_parameters() if one is parameter)
    return torch.func.functional_call(layer, {name: value}, x)


def test_a_gaussian_a_has_the_deviation_1_over_r_and_b_is_zero():
    layer = LoraLayer(nn.Linear(2000, 500), 8, 8, 1.0, dora=False)
    layer.initialize("gaussian", torch.Generator().manual_seed(0))
    assert float(layer.down.detach().std()) == pytest.approx(1 / 8, rel=0.02)
    assert float(layer.down.detach().mean()) == pytest.approx(0, abs=0.004)
    assert float((layer.down.detach() * 8).pow(4).mean()) == pytest.approx(
        3, rel=0.1
    )  # the fourth moment of a normal distribution
    assert not layer.up.any()


@pytest.mark.parametrize(("layer", "fan_in"), [(nn.Linear(600, 50), 600), (nn.Conv2d(60, 50, 3), 540)])
def test_a_kaiming_a_is_uniform_up_to_1_over_the_root_of_its_fan_in(layer, fan_in):
    made = LoraLayer(layer, 8, 8, 1.0, dora=False)
    made.initialize("kaiming", torch.Generator().manual_seed(0))
    bound = fan_in**-0.5
    assert 0.99 * bound < float(made.down.detach().abs().max()) <= bound
    assert float(made.down.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.05)
    assert not made.up.any()


def settings(base, pictures="", output="", **changes):
    told = {"base": str(base), "images": str(pictures), "output": str(output), "prompt": "a photo of a sks cat", "rank": 2, "steps": 2,
            "batch": 2, "resolution": 32, "sample_count": 0, "learning_rate": 1e-2, **changes}  # fmt: skip
    return LoraSettings(**told)


def digests(base, dtype=torch.float32):
    """A digest of every tensor of every component, LoRA's own aside, as if those of all but the VAE were rounded to `dtype`."""
    return {(part, name.replace(".layer.", ".")): _digest(tensor.to(torch.float32 if part == "vae" else dtype).float())
            for part, module in base.modules().items() for name, tensor in module.state_dict().items()
            if not name.endswith((".down", ".up", ".magnitude"))}  # fmt: skip


def _digest(tensor):
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("dora", [False, True])
def test_before_the_first_step_the_model_predicts_bit_for_bit_what_the_base_does(base_of, dora):
    told = settings(base_of("sd1"), targets=("all",), text_targets=("all",), dora=dora)
    with opened(told.base, ("sd1",)) as base, torch.no_grad():
        noise, t, ids = torch.randn(2, 4, 4, 4), torch.tensor([5, 900]), torch.tensor([[49406, 320, 49407]] * 2)
        for module in base.modules().values():
            module.load_state_dict(
                {name: tensor.clone() for name, tensor in module.state_dict().items()}, assign=True
            )  # out of the file

        def predicted():
            return base.unet(noise, t, base.encoders["text_encoder"](ids)[0]).sample

        before = predicted()
        layers = lora.attach(base, told)
        assert torch.equal(predicted(), before)
        layers[Module("text_encoder", "text_model.encoder.layers.3.mlp.fc1")].up.fill_(0.1)
        assert not torch.equal(predicted(), before)


@pytest.mark.parametrize(("changes", "dtype"), [
    ({}, torch.float32),
    ({"dora": True, "text_targets": ("attention",), "optimizer_options": {"weight_decay": 0.1}}, torch.float32),
    ({"precision": "bf16", "gradient_checkpointing": True}, torch.bfloat16),
])  # fmt: skip
def test_everything_that_is_frozen_stays_bit_for_bit_as_it_was(base_of, pictures, tmp_path, changes, dtype):
    told = settings(base_of("sd1"), pictures, tmp_path, **changes)
    with begun(told) as accelerator, opened(told.base, ("sd1",)) as base:
        before = digests(base, dtype)
        layers = lora.attach(base, told)
        Loop(told, base, [subject(told, base, ["a cat"])], accelerator).run()
        assert len(before) > 1000
        assert digests(base) == before
        assert {layer.up.dtype for layer in layers.values()} == {torch.float32}
        assert [
            module for module, layer in layers.items() if module.module.endswith("to_v") and not layer.up.any()
        ] == []


SD15_PATHS = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"


@pytest.mark.parametrize(("architecture", "targets", "count"), [
    ("sd1", ("attention",), 128), ("sd1", ("cross-attention",), 64), ("sd1", ("feed-forward",), 32),
    ("sd1", ("*.attentions.*",), 192),  # Kohya's set
    ("sd1", ("convolutions",), 2 * 22 + 14 + 6), ("sd1", ("all",), 184 + 98),
    ("sd1", ("attention", "cross-attention", "*.attn1.to_q"), 128), ("sd1", (SD15_PATHS,), 1),
    ("sd2", ("attention",), 128), ("sdxl", ("attention",), 560), ("sdxl", ("cross-attention",), 280),
])  # fmt: skip
def test_a_set_of_targets_is_the_layers_that_it_names(base_of, architecture, targets, count):
    with opened(str(base_of(architecture)), (architecture,)) as base:
        layers = lora.attach(base, settings(base_of(architecture), targets=targets, rank=1))
    assert len(layers) == count
    weights = architectures.get(architecture).weights["unet"]
    assert [module for module in layers if len(weights[module.module]) not in (2, 4)] == []


@pytest.mark.parametrize(("architecture", "targets", "count"), [
    ("sd1", ("attention",), 48), ("sd1", ("feed-forward",), 24), ("sd1", ("all",), 72), ("sd2", ("attention",), 92),
    ("sdxl", ("attention",), 48 + 128),
])  # fmt: skip
def test_text_encoders_get_layers_on_request(base_of, architecture, targets, count):
    with opened(str(base_of(architecture)), (architecture,)) as base:
        layers = lora.attach(base, settings(base_of(architecture), targets=(SD15_PATHS,) if architecture != "sdxl" else ("*.attn2.to_v",),
                                            text_targets=targets, rank=1))  # fmt: skip
    found = [module for module in layers if module.component.startswith("text")]
    assert len(found) == count
    assert all(module.module.startswith("text_model.encoder.layers.") for module in found if "layers" in module.module)


def test_the_last_pattern_that_matches_gives_rank_and_alpha(base_of):
    told = settings(base_of("sd1"), rank=4, alpha=2, ranks={"*.attn2.*": 2, "mid_block.*": 3}, alphas={"*.to_v": 8})
    with opened(told.base, ("sd1",)) as base:
        layers = {module.module: layer for module, layer in lora.attach(base, told).items()}
        made = lora.adapter(base, {Module("unet", path): layer for path, layer in layers.items()})
    up, mid = "up_blocks.1.attentions.0.transformer_blocks.0", "mid_block.attentions.0.transformer_blocks.0"
    expected = {f"{up}.attn1.to_q": (4, 2), f"{up}.attn2.to_q": (2, 2), f"{up}.attn2.to_v": (2, 8), f"{mid}.attn2.to_k": (3, 2),
                f"{mid}.attn1.to_v": (3, 8)}  # fmt: skip
    for path, (rank, alpha) in expected.items():
        assert (len(layers[path].down), layers[path].scale) == (rank, alpha / rank)
        assert item(made.tensors[Key("unet", path, Role.ALPHA)]) == alpha


@pytest.mark.parametrize(("changes", "message"), [
    ({"targets": ("attentoin",)}, "no layer of the unet matches attentoin"),
    ({"targets": ("attention", "*.attn3.*")}, r"no layer of the unet matches \*.attn3"),
    ({"text_targets": ("convolutions",)}, "no layer of the text_encoder matches convolutions"),
    ({"rank": 9}, "the rank 9 is above the width 8 of unet.down_blocks.0"),
    ({"targets": ("conv_in",), "rank": 10}, "the rank 10 is above the width 8 of unet.conv_in"),
    ({"targets": ("conv_out",), "ranks": {"conv_*": 5}}, "the rank 5 is above the width 4 of unet.conv_out"),
])  # fmt: skip
def test_what_cannot_be_attached_is_an_error_before_anything_is_written(base_of, pictures, tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        lora.train(settings(base_of("sd1"), pictures, tmp_path, **changes))
    assert not (tmp_path / "log.jsonl").exists()


def size(rank, patterns, text_patterns=(), width=2):
    """The bytes of a LoRA's factors for the true Stable Diffusion 1.5."""
    total = 0
    for component, wanted in (("unet", patterns), ("text_encoder", text_patterns)):
        weights = architectures.get("sd1").weights[component]
        for path in {
            path for pattern in wanted for path in weights if fnmatchcase(path, pattern) and len(weights[path]) > 1
        }:
            outputs, *inputs = weights[path]
            total += width * rank * (outputs + math.prod(inputs))
    return total / 1e6


def test_sizes_are_those_that_the_field_knows():
    attention = SETS["attention"]
    kohya = (["*.attentions.*"], ["*.self_attn.*", "*.mlp.*"])
    assert [round(size(rank, attention), 1) for rank in (4, 32, 128)] == [1.6, 12.8, 51.0]
    assert [round(size(rank, *kohya), 1) for rank in (4, 32, 128)] == [4.7, 37.7, 151.0]
    weights = architectures.get("sd1").weights
    assert 4 * weights["text_encoder"]["text_model.embeddings.token_embedding"][1] == 3072
    whole = sum(math.prod(shape) for part in weights for _, _, shape in architectures.get("sd1").tensors(part))
    assert (round(2 * whole / 1e9, 2), round(4 * whole / 1e9, 2)) == (2.13, 4.26)
