"""What our deltas do to a weight is what the libraries that train these adapters do with the same tensors."""

from __future__ import annotations

import peft
import pytest
import torch
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule
from peft.tuners.boft import layer as peft_boft
from peft.utils import get_peft_model_state_dict
from torch import nn
from torch.nn import functional

from adapterhub.adapter import Role
from adapterhub.operations.lora.deltas import delta, lazy, tensor
from adapterhub.tensors import scalar

DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.int64: "I64", torch.bool: "BOOL"}


def held(value):
    return lazy(value.detach(), DTYPES[value.dtype])


def shaken(module, spread=0.3, dtype=torch.float64):
    """`module` with every parameter off its initial value, which for most is the identity."""
    torch.manual_seed(7)
    module.to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * spread)
    return module


BASES = {
    "linear": lambda: nn.Linear(24, 16),
    "1×1": lambda: nn.Conv2d(24, 16, 1),
    "3×3": lambda: nn.Conv2d(24, 16, 3, padding=1),
}
INPUTS = {"linear": (5, 24), "1×1": (2, 24, 6, 6), "3×3": (2, 24, 6, 6)}


def output(base, kind, x, weight, bias):
    if kind == "linear":
        return functional.linear(x, weight, bias)
    return functional.conv2d(x, weight, bias, padding=base.padding)


LYCORIS = {
    "lora": (LoConModule, {"lora_dim": 4, "alpha": 2.0}),
    "lora+dora": (LoConModule, {"lora_dim": 4, "alpha": 2.0, "weight_decompose": True}),
    "lora+dora on the input": (LoConModule, {"lora_dim": 4, "weight_decompose": True, "wd_on_out": False}),
    "lora with a core": (LoConModule, {"lora_dim": 4, "alpha": 2.0, "use_tucker": True}),
    "loha": (LohaModule, {"lora_dim": 3, "alpha": 1.0}),
    "loha+dora": (LohaModule, {"lora_dim": 3, "alpha": 1.0, "weight_decompose": True}),
    "loha with cores": (LohaModule, {"lora_dim": 3, "alpha": 1.0, "use_tucker": True}),
    "lokr": (LokrModule, {"lora_dim": 2, "alpha": 1.0, "factor": 2}),
    "lokr+dora on the input": (LokrModule, {"lora_dim": 2, "factor": 2, "weight_decompose": True, "wd_on_out": False}),
    "lokr, both products": (LokrModule, {"lora_dim": 1, "alpha": 4.0, "factor": 4, "decompose_both": True}),
    "lokr, both full": (LokrModule, {"lora_dim": 8, "alpha": 4.0, "factor": 4, "full_matrix": True}),
    "lokr with a core": (LokrModule, {"lora_dim": 2, "alpha": 1.0, "factor": 2, "use_tucker": True}),
    "ia3": (IA3Module, {}),
    "ia3 on the input": (IA3Module, {"train_on_input": True}),
    "oft": (DiagOFTModule, {"lora_dim": 4}),
    "oft, constrained and rescaled": (DiagOFTModule, {"lora_dim": 4, "constraint": 0.01, "rescaled": True}),
    "boft": (ButterflyOFTModule, {"lora_dim": 4}),
    "boft, constrained and rescaled": (ButterflyOFTModule, {"lora_dim": 4, "constraint": 0.05, "rescaled": True}),
    "glora": (GLoRAModule, {"lora_dim": 4, "alpha": 2.0}),
}  # fmt: skip


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("name", LYCORIS)
def test_the_forward_of_lycoris_is_that_of_the_weight_that_we_make(kind, name):
    algorithm, settings = LYCORIS[name]
    single = "oft" in name  # Cayley's transform is always taken in float32 there
    dtype, tolerance = (torch.float32, 2e-5) if single else (torch.float64, 1e-9)
    base = BASES[kind]().to(dtype)
    live = shaken(algorithm("module", base, **settings), dtype=dtype).eval()
    tensors = {Role(name.removesuffix(".weight")): held(value) for name, value in live.state_dict().items()}
    x = torch.randn(INPUTS[kind], dtype=dtype)
    with torch.no_grad():
        expected = live(x)
        assert not torch.allclose(expected, base(x), rtol=1e-3)
        found = output(base, kind, x, delta(tensors).apply(base.weight).to(dtype), base.bias)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["linear", "3×3"])
def test_a_full_module_of_lycoris_stores_differences_of_weight_and_bias(kind):
    base = shaken(BASES[kind](), 0.0)
    before = (base.weight.detach().clone(), base.bias.detach().clone())
    live = FullModule("module", base)
    live.apply_to()
    shaken(live)
    tensors = {Role(name): held(value) for name, value in live.state_dict().items()}
    assert tensors.keys() == {Role.DIFF, Role.DIFF_B}
    found = delta(tensors)
    torch.testing.assert_close(found.apply(before[0]), live.weight.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(before[1] + found.bias(), live.bias.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm", [nn.LayerNorm(24), nn.GroupNorm(4, 24)])
def test_a_norm_of_lycoris_moves_weight_and_bias(norm):
    base = shaken(norm, 0.1)
    live = shaken(NormModule("module", base))
    found = delta({Role(name): held(value) for name, value in live.state_dict().items()})
    x = torch.randn(3, 24, dtype=torch.float64)
    with torch.no_grad():
        expected = live(x)
        base.weight.copy_(found.apply(base.weight))
        base.bias.add_(found.bias())
        torch.testing.assert_close(base(x), expected)


class Net(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer = BASES[kind]()


PEFT_ROLES = {
    "lora_A.weight": Role.DOWN, "lora_B.weight": Role.UP, "lora_B.bias": Role.UP_BIAS,
    "lora_magnitude_vector": Role.DORA_SCALE, "lora_A": Role.DOWN, "lora_B": Role.UP, "lora_E": Role.ADALORA_E,
    "oft_R.weight": Role.OFT_R,
}  # fmt: skip


def wrapped(kind, config):
    """A live PEFT model of one layer, and the tensors that it would save, under our roles."""
    torch.manual_seed(3)
    net = Net(kind).double()
    model = peft.get_peft_model(net, config)
    layer = model.base_model.model.layer
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "base_layer" not in name and "ranknum" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    saved = get_peft_model_state_dict(model)
    prefix = "base_model.model.layer."
    tensors = {}
    for key, value in saved.items():
        name = key.removeprefix(prefix)
        tensors[PEFT_ROLES.get(name) or Role(name)] = held(value)
    return layer, tensors


def merged(layer):
    """Weight and bias before and after PEFT merges."""
    base = layer.base_layer
    before = (base.weight.detach().clone(), base.bias.detach().clone())
    layer.merge()
    return before, (base.weight.detach(), base.bias.detach())


def agree(layer, tensors, tolerance=1e-6):
    (weight, bias), (new_weight, new_bias) = merged(layer)
    assert not torch.allclose(weight, new_weight, rtol=1e-3)
    found = delta(tensors)
    torch.testing.assert_close(found.apply(weight), new_weight, rtol=tolerance, atol=tolerance)
    shift = found.bias(bias)
    torch.testing.assert_close(bias if shift is None else bias + shift, new_bias, rtol=tolerance, atol=tolerance)


PEFT_PRODUCTS = {
    "lora": lambda: peft.LoraConfig(r=4, lora_alpha=2, target_modules=["layer"]),
    "lora with a bias": lambda: peft.LoraConfig(r=4, lora_alpha=2, target_modules=["layer"], lora_bias=True),
    "lora+dora": lambda: peft.LoraConfig(r=4, lora_alpha=2, target_modules=["layer"], use_dora=True),
    "loha": lambda: peft.LoHaConfig(r=3, alpha=2, target_modules=["layer"], init_weights=False),
    "loha with cores": lambda: peft.LoHaConfig(
        r=3, alpha=2, target_modules=["layer"], init_weights=False, use_effective_conv2d=True),
    "lokr": lambda: peft.LoKrConfig(r=1, alpha=2, target_modules=["layer"], init_weights=False),
    "lokr, both products": lambda: peft.LoKrConfig(
        r=1, alpha=2, target_modules=["layer"], init_weights=False, decompose_both=True),
    "lokr with a core": lambda: peft.LoKrConfig(
        r=1, alpha=2, target_modules=["layer"], init_weights=False, use_effective_conv2d=True),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*have invalid shape")
@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("name", PEFT_PRODUCTS)
def test_the_merged_weights_of_peft_are_ours_for_every_product(kind, name):
    layer, tensors = wrapped(kind, PEFT_PRODUCTS[name]())
    agree(layer, tensors | {Role.ALPHA: scalar(2.0)})


@pytest.mark.parametrize("kind", BASES)
def test_a_lokr_of_peft_with_full_factors_is_scaled_all_the_same(kind):
    layer, tensors = wrapped(kind, peft.LoKrConfig(r=32, alpha=16, target_modules=["layer"], init_weights=False))
    assert tensors.keys() == {Role.LOKR_W1, Role.LOKR_W2}
    agree(layer, tensors | {Role.SCALAR: scalar(0.5)})


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("feedforward", [[], ["layer"]])
def test_ia3_of_peft_multiplies_weight_and_bias_as_ours(kind, feedforward):
    config = peft.IA3Config(target_modules=["layer"], feedforward_modules=feedforward)
    agree(*wrapped(kind, config))


def test_adalora_of_peft_is_ours_but_for_the_guard_in_its_divisor():
    config = peft.AdaLoraConfig(init_r=4, target_r=4, lora_alpha=8, target_modules=["layer"], total_step=10)
    layer, tensors = wrapped("linear", config)
    delta_weight = layer.get_delta_weight("default").detach()
    found = delta(tensors | {Role.ALPHA: scalar(8.0)}).matrix() * 4 / (4 + 1e-5)
    torch.testing.assert_close(found, delta_weight, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("terms", [0, 2, 3, 4, 5, 6, 7])
def test_oft_of_peft_turns_as_ours_whichever_transform_it_uses(kind, shared, terms):
    config = peft.OFTConfig(
        target_modules=["layer"], oft_block_size=4, block_share=shared, bias="none",
        use_cayley_neumann=terms > 0, num_cayley_neumann_terms=terms or 5,
    )  # fmt: skip
    layer, tensors = wrapped(kind, config)
    agree(layer, tensors | {Role.OFT_TERMS: scalar(terms, "I64")})


class BlockDiagonal:
    """In place of PEFT's CUDA kernel, without which it knows one butterfly factor only."""

    @staticmethod
    def apply(blocks):
        return torch.stack([torch.block_diag(*stage) for stage in blocks])


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize(("factors", "size"), [(1, 4), (1, 3), (2, 2), (3, 2), (2, 6)])
def test_boft_of_peft_turns_and_scales_as_ours(kind, factors, size, monkeypatch):
    monkeypatch.setattr(peft_boft, "get_fbd_cuda", lambda: True)
    monkeypatch.setattr(peft_boft, "FastBlockDiag", BlockDiagonal)
    config = peft.BOFTConfig(target_modules=["layer"], boft_block_size=size, boft_n_butterfly_factor=factors)
    layer, tensors = wrapped(kind, config)
    assert tensors[Role.BOFT_R].shape[0] == factors
    agree(layer, tensors)


def test_rslora_of_peft_is_an_alpha_over_the_root_of_the_rank():
    config = peft.LoraConfig(r=4, lora_alpha=3, target_modules=["layer"], use_rslora=True)
    layer, tensors = wrapped("linear", config)
    agree(layer, tensors | {Role.ALPHA: scalar(3 * 4**0.5)})


def test_a_saved_tensor_of_peft_has_the_values_of_the_live_one():
    layer, tensors = wrapped("linear", peft.LoraConfig(r=4, target_modules=["layer"]))
    assert torch.equal(tensor(tensors[Role.DOWN]), layer.lora_A["default"].weight.detach().double())
