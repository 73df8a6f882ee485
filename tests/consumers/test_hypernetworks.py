"""Hypernetworks attached to real UNets of diffusers do what the formula written out does."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer

from adapterhub.errors import UsageError
from adapterhub.hypernetworks import attach
from tests.consumers.hypernetwork_unets import ARCHITECTURES, WIDTHS, by_hand, close, differ, run
from tests.operations.a1111_nets import hypernetwork


@pytest.fixture
def name():
    """The architecture, where a test does not go through several."""
    return "sd1"


@pytest.fixture
def unet(bench, name):
    return bench.models(name)["unet"]


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("activation", "norm"), [("linear", False), ("relu", False), ("swish", True)])
def test_attached_is_the_formula_written_out(tmp_path, bench, name, unet, activation, norm):
    made = hypernetwork(tmp_path / "a.pt", WIDTHS, [1, 2, 1], activation, norm, spread=0.3)
    plain = run(unet, name)
    with attach(unet, tmp_path / "a.pt", 0.8):
        found = run(unet, name)
    differ(found, plain)
    close(found, run(by_hand(bench.models(name)["unet"], (made, 0.8)), name))


def test_two_are_chained_in_the_order_of_attaching(tmp_path, bench, name, unet):
    a = hypernetwork(tmp_path / "a.pt", WIDTHS, [1, 2, 1], "relu", seed=1, spread=0.3)
    b = hypernetwork(tmp_path / "b.pt", WIDTHS, [1, 2, 1], "tanh", seed=2, spread=0.3)
    with attach(unet, tmp_path / "a.pt"), attach(unet, tmp_path / "b.pt", 0.5):
        found = run(unet, name)
    close(found, run(by_hand(bench.models(name)["unet"], (a, 1.0), (b, 0.5)), name))
    differ(found, run(by_hand(bench.models(name)["unet"], (b, 0.5), (a, 1.0)), name))


def test_detach_leaves_every_bit_as_it_was(tmp_path, name, unet):
    hypernetwork(tmp_path / "a.pt", WIDTHS, [1, 2, 1])
    before, processors = run(unet, name), unet.attn_processors
    attached = attach(unet, tmp_path / "a.pt")
    other = attach(unet, tmp_path / "a.pt", -1)
    attached.detach()
    differ(run(unet, name), before)
    other.detach()
    attached.detach()
    assert torch.equal(run(unet, name), before)
    assert unet.attn_processors == processors
    assert not any(module._forward_pre_hooks for module in unet.modules())


def test_strength_can_be_changed_and_zero_is_nothing(tmp_path, bench, name, unet):
    made = hypernetwork(tmp_path / "a.pt", WIDTHS, [1, 2, 1], spread=0.3)
    plain = run(unet, name)
    with attach(unet, tmp_path / "a.pt", 0.0) as attached:
        assert torch.equal(run(unet, name), plain)
        attached.strength = -0.5
        close(run(unet, name), run(by_hand(bench.models(name)["unet"], (made, -0.5)), name))


def test_it_says_where_it_works(tmp_path, bench):
    unet = bench.models("sd1")["unet"]
    hypernetwork(tmp_path / "a.pt", [16, 24, 40], [1, 2, 1])
    with pytest.warns(UserWarning, match="no attention of this UNet has contexts of 40"):
        attached = attach(SimpleNamespace(unet=unet), tmp_path / "a.pt")
    assert (attached.attentions, attached.unmatched) == ({16: 5, 24: 16}, (40,))


def test_where_nothing_fits_it_is_refused(tmp_path, bench):
    hypernetwork(tmp_path / "a.pt", [40], [1, 2, 1])
    with pytest.raises(UsageError, match="contexts of 40"):
        attach(bench.models("sd1")["unet"], tmp_path / "a.pt")


def test_fused_projections_are_refused_until_they_are_apart_again(tmp_path, bench):
    unet = bench.models("sd1")["unet"]
    hypernetwork(tmp_path / "a.pt", WIDTHS, [1, 2, 1])
    with attach(unet, tmp_path / "a.pt"):
        apart = run(unet, "sd1")
        unet.fuse_qkv_projections()
        with pytest.raises(UsageError, match=r"fused.*\nCall unfuse_qkv_projections"):
            run(unet, "sd1")
        unet.unfuse_qkv_projections()
        assert torch.equal(run(unet, "sd1"), apart)


def test_a_lora_loaded_first_is_given_the_changed_contexts(tmp_path, bench):
    unet, by = (bench.models("sd1")["unet"] for _ in range(2))
    made = hypernetwork(tmp_path / "a.pt", WIDTHS, [1, 2, 1], "relu", spread=0.3)
    config = LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False)
    torch.manual_seed(0)
    unet.add_adapter(config)
    by_hand(by, (made, 1.0))
    for (path, layer), plain in zip(_projections(unet), (layer for _, layer in _projections(by)), strict=True):
        assert isinstance(layer, LoraLayer), path
        with torch.no_grad():
            plain.weight += layer.get_delta_weight("default")
    with attach(unet, tmp_path / "a.pt"):
        close(run(unet, "sd1"), run(by, "sd1"), 2e-6)


def _projections(unet):
    return [(name, module) for name, module in unet.named_modules() if name.endswith(("to_k", "to_v"))]


def test_a_lora_loaded_afterwards_is_refused(tmp_path, bench):
    unet = bench.models("sd1")["unet"]
    hypernetwork(tmp_path / "a.pt", WIDTHS, [1, 2, 1])
    with attach(unet, tmp_path / "a.pt"):
        unet.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v"]))
        with pytest.raises(UsageError, match="replaced while"):
            run(unet, "sd1")


def test_a_half_precision_unet_gets_contexts_in_its_dtype(tmp_path, bench):
    unet = bench.models("sd1")["unet"].to(torch.bfloat16)
    hypernetwork(tmp_path / "a.pt", WIDTHS, [1, 2, 1], "relu")
    with attach(unet, tmp_path / "a.pt"):
        assert run(unet, "sd1").dtype == torch.bfloat16


def test_attaching_warns_of_nothing_else(tmp_path, bench):
    hypernetwork(tmp_path / "a.pt", WIDTHS, [1, 2, 1], "relu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with attach(bench.models("sd1")["unet"], tmp_path / "a.pt"):
            pass
