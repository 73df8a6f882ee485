"""Hypernetworks folded into the weights of real UNets of diffusers do what they do attached."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import UNet2DConditionModel

import adapterhub
from adapterhub.adapter import Key
from adapterhub.errors import LossyConversion, NeedsBase, RefusedInput, UsageError
from adapterhub.hypernetworks import attach
from adapterhub.operations.base import Base
from adapterhub.operations.hypernetwork.fold import fold, fold_chain, lora_of
from adapterhub.operations.lora import deltas
from adapterhub.operations.source import open_adapter
from tests.consumers.hypernetwork_unets import ARCHITECTURES, WIDTHS, base_of, changed, close, run
from tests.operations.a1111_nets import hypernetwork, pairs, saved

PLACE = "down_blocks.1.attentions.0.transformer_blocks.0"


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(
    ("dtype", "stored", "tolerance"), [(torch.float32, "F32", 2e-6), (torch.float64, "F64", 1e-12)]
)
def test_folded_does_what_attached_does(tmp_path, bench, name, dtype, stored, tolerance):
    unet = bench.models(name)["unet"].to(dtype)
    hypernetwork(tmp_path / "a.pt", WIDTHS, [1, 2, 1.5, 1], spread=0.2)
    with open_adapter(tmp_path / "a.pt") as source:
        base = base_of(unet, name, stored)
        adapter = lora_of(fold(source.adapter, base, dtype=stored, strength=0.7), base, {})
        with attach(unet, tmp_path / "a.pt", 0.7):
            wanted = run(unet, name)
        found = run(changed(unet, adapter), name)
    assert {key.role for key in adapter.tensors} == {"diff", "diff_b"}
    close(found, wanted, tolerance)


def test_a_chain_folds_as_a_whole(tmp_path, bench):
    unet = bench.models("sd1")["unet"].double()
    hypernetwork(tmp_path / "a.pt", WIDTHS, [1, 2, 1], seed=1, spread=0.2)
    hypernetwork(tmp_path / "b.pt", [24, 32], [1, 1], seed=2, spread=0.2)
    with open_adapter(tmp_path / "a.pt") as a, open_adapter(tmp_path / "b.pt") as b:
        base = base_of(unet, "sd1", "F64")
        adapter = lora_of(fold_chain([(a.adapter, 0.5), (b.adapter, -1.0)], base, dtype="F64"), base, {})
        with attach(unet, tmp_path / "a.pt", 0.5), attach(unet, tmp_path / "b.pt", -1.0):
            wanted = run(unet, "sd1")
        close(run(changed(unet, adapter), "sd1"), wanted, 1e-12)


def test_without_bias_no_bias_is_changed(tmp_path, bench):
    made = pairs([24], [1, 2, 1])
    with torch.no_grad():
        for parameter in (layer.bias for net in made[24] for layer in net.linear):
            parameter.zero_()
    saved(tmp_path / "a.pt", made, [1, 2, 1])
    with open_adapter(tmp_path / "a.pt") as source:
        folded = fold(source.adapter, base_of(bench.models("sd1")["unet"], "sd1"))
    assert {key.role for changes in folded.values() for key in changes} == {"diff"}


def test_what_is_not_linear_or_has_no_base_is_not_folded(tmp_path, bench):
    hypernetwork(tmp_path / "a.pt", WIDTHS, [1, 2, 1], "relu")
    hypernetwork(tmp_path / "b.pt", WIDTHS, [1, 2, 1])
    base = base_of(bench.models("sd1")["unet"], "sd1")
    with open_adapter(tmp_path / "a.pt") as source, pytest.raises(RefusedInput, match=r"activation \(relu\).*\n--fit"):
        fold(source.adapter, base)
    with open_adapter(tmp_path / "b.pt") as source:
        with pytest.raises(NeedsBase):
            fold(source.adapter, Base("sd1", {}))
        with pytest.raises(NeedsBase, match=r"down_blocks\.0\.attentions\.0\.transformer_blocks\.0\.attn1"):
            fold(source.adapter, Base("sd1", {"unet.conv_in.weight": base.weights["unet.conv_in.weight"]}))


@pytest.fixture
def base(tmp_path, bench):
    """A folder of diffusers with a tiny SD 1 UNet, and text encoder."""
    models = bench.models("sd1")
    norms = [module for path, module in models["unet"].named_modules() if path.endswith(".0.norm1")]
    for parameter in (parameter for norm in norms for parameter in norm.parameters()):
        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
    models["unet"].save_pretrained(tmp_path / "base" / "unet")
    models["text_encoder"].save_pretrained(tmp_path / "base" / "text_encoder")
    parts = {"unet": ["diffusers", "UNet2DConditionModel"], "text_encoder": ["transformers", "CLIPTextModel"]}
    (tmp_path / "base" / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", **parts}))
    return tmp_path / "base"


@pytest.mark.parametrize(("dtype", "exactness", "tolerance"), [(None, "exact", 2e-6), ("fp16", "approximate", 1e-3)])
def test_a_lora_file_that_was_folded_does_what_attached_does(tmp_path, bench, base, dtype, exactness, tolerance):
    unet = bench.models("sd1")["unet"]
    hypernetwork(tmp_path / "a.pt", WIDTHS, [1, 2, 1], spread=0.2)
    done = adapterhub.convert(tmp_path / "a.pt", tmp_path / "b.safetensors", to="kohya", base=base, architecture="sd1",
                              dtype=dtype)  # fmt: skip
    assert (done.exactness, done.max_error < tolerance) == (exactness, True)
    assert {entry.action for entry in done.entries} == {"compute"}
    assert sorted(key for entry in done.entries for key in entry.source) == sorted(
        f"{width}.{half}.linear.{layer}.{name}"
        for width in WIDTHS for half in (0, 1) for layer in (0, 1) for name in ("weight", "bias")
    )  # fmt: skip
    with attach(unet, tmp_path / "a.pt"):
        wanted = run(unet, "sd1")
    with open_adapter(tmp_path / "b.safetensors", architecture="sd1") as source:
        close(run(changed(unet, source.adapter), "sd1"), wanted, tolerance)


@pytest.mark.parametrize("options", [{"architecture": "sd1"}, {}])
def test_without_a_base_or_a_model_to_look_for_it_says_what_is_missing(tmp_path, base, options):
    hypernetwork(tmp_path / "a.pt", WIDTHS, [1, 2, 1])
    given = {"base": None} if options else {"base": base}
    with pytest.raises(NeedsBase if options else UsageError, match="--base" if options else "architecture"):
        adapterhub.convert(tmp_path / "a.pt", tmp_path / "b.safetensors", to="kohya", **given, **options)


def test_a_full_rank_lora_that_was_folded_is_exact(tmp_path, base):
    made = pairs(WIDTHS, [1, 2, 1], spread=0.2)
    with torch.no_grad():
        for parameter in (layer.bias for pair in made.values() for net in pair for layer in net.linear):
            parameter.zero_()
    saved(tmp_path / "a.pt", made, [1, 2, 1])
    done = adapterhub.convert(tmp_path / "a.pt", tmp_path / "b.safetensors", to="diffusers", base=base, architecture="sd1",
                              as_algorithm="lora", rank=32)  # fmt: skip
    assert done.max_error < 1e-6
    assert set(adapterhub.inspect(tmp_path / "b.safetensors").algorithms) == {"lora"}


def test_a_net_that_meets_no_attention_is_lost_only_on_demand(tmp_path, base):
    hypernetwork(tmp_path / "a.pt", [24, 40], [1, 2, 1])
    options = {"to": "kohya", "base": base, "architecture": "sd1"}
    with pytest.raises(LossyConversion, match="no attention of sd1 has contexts of 40"):
        adapterhub.convert(tmp_path / "a.pt", tmp_path / "b.safetensors", **options)
    done = adapterhub.convert(tmp_path / "a.pt", tmp_path / "b.safetensors", **options, allow_loss=True)
    assert (done.exactness, done.summary["drop"]) == ("partial", 8)


def test_a_fit_of_what_is_nearly_linear_is_near_and_says_how_far(tmp_path, base):
    """LeakyReLU is linear but for its corner; the fit is measured anew here, on contexts as the fit imagines them."""
    made = hypernetwork(tmp_path / "a.pt", WIDTHS, [1, 2, 1], "leakyrelu", spread=0.2)
    with pytest.raises(RefusedInput, match="--fit"):
        adapterhub.convert(tmp_path / "a.pt", tmp_path / "b.safetensors", to="kohya", base=base, architecture="sd1")
    done = adapterhub.convert(
        tmp_path / "a.pt", tmp_path / "b.safetensors", to="kohya", base=base, architecture="sd1", fit=True
    )
    (told,) = [problem for problem in done.problems if problem.code == "fitted"]
    assert done.exactness == "approximate"
    assert f"off by {done.max_error:.3g} of its effect" in told.message
    block = UNet2DConditionModel.from_pretrained(base / "unet").requires_grad_(False).get_submodule(PLACE)
    x = block.norm1(torch.randn(4096, 32, generator=torch.Generator().manual_seed(8)))
    out = block.attn1.to_out[0].weight
    wanted = block.attn1.to_v(made[32][1].linear(x)) @ out.T
    with open_adapter(tmp_path / "b.safetensors", architecture="sd1") as source:
        weight, bias = (
            deltas.tensor(source.adapter.tensors[Key("unet", f"{PLACE}.attn1.{name}", role)], torch.float32)
            for name, role in (("to_v", "diff"), ("to_out.0", "diff_b"))
        )
    found = x @ weight.T @ out.T + bias
    assert 0 < float((found - wanted).norm() / wanted.norm()) < done.max_error * 1.2 < 0.6
