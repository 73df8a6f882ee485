"""Whole models compared: what changed, where and by how much, and whether one descends from the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

import adapterhub
from adapterhub.documents import Difference, Validation
from adapterhub.operations.checkpoint.difference import change
from adapterhub.tensors import LazyTensor
from tests.operations.checkpoint_files import CONV_IN, FOREIGN, UNET, Tensors, averages, saved, schedule, weights

BASE = weights("sd1")
OUT = f"{UNET}out.2"
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer.text_model."
SAME = ["The text encoder is the same.", "The VAE is the same.", "The UNet is the same."]


@pytest.fixture
def compared(tmp_path: Path) -> Callable[..., Difference]:
    """`compared(first, second)`: what `diff` says of two models by their tensors."""
    return lambda a, b, **options: adapterhub.diff(
        saved(tmp_path / "a.safetensors", a), saved(tmp_path / "b.safetensors", b), **options
    )


@pytest.fixture
def traced(tmp_path: Path) -> Callable[..., Validation]:
    """`traced(model, base)`: what `validate --base` says of two models by their tensors."""
    return lambda model, base: adapterhub.validate(
        saved(tmp_path / "model.safetensors", model), base=saved(tmp_path / "base.safetensors", base)
    )


def moved(tensors: Tensors, names: Iterable[str], share: float = 0.125) -> Tensors:
    """The model with each of `names` larger by `share`."""
    return tensors | {name: (tensors[name] * (1 + share)).astype(tensors[name].dtype) for name in names}


def names(part: str, tensors: Tensors = BASE) -> list[str]:
    return [name for name in tensors if part in name]


def component(found: Difference, name: str):
    return {part.name: part for part in found.components}[name]


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_a_model_equals_its_folder(name, tmp_path):
    file = saved(tmp_path / "model.safetensors", weights(name) | schedule())
    adapterhub.convert(file, f"{tmp_path}/folder/", to="diffusers")
    found = adapterhub.diff(file, tmp_path / "folder")
    assert (found.equal, found.max_error, found.differences) == (True, 0.0, [])
    assert all(part.identical == part.tensors > 0 for part in found.components)


def test_a_model_equals_its_torch_file_whatever_is_wrapped_around_it(tmp_path):
    file = saved(tmp_path / "model.safetensors", BASE)
    tensors = {name: torch.from_numpy(tensor) for name, tensor in BASE.items()}
    torch.save({"state_dict": tensors, "epoch": 3, "global_step": 7}, tmp_path / "model.ckpt")
    found = adapterhub.diff(file, tmp_path / "model.ckpt")
    assert found.equal
    assert found.summary == SAME


def test_one_number_is_found_and_measured(compared):
    """Sixteen ones, Euclidean length 4, one of which became 1.5: a change of 1/8 of the whole, of 1/2 of the largest."""
    ones = BASE | {f"{OUT}.weight": np.ones((2, 2, 2, 2), "f4"), f"{OUT}.bias": np.zeros(2, "f4")}
    weight = ones[f"{OUT}.weight"].copy()
    weight[1, 0, 1, 0] = 1.5
    found = compared(ones, ones | {f"{OUT}.weight": weight})
    assert [(one.component, one.module, one.max_abs, one.relative) for one in found.differences] == [
        ("unet", "conv_out", 0.5, 0.5)
    ]
    assert (found.equal, found.max_abs, found.max_error, found.modules) == (False, 0.5, 0.5, 391 + 99 + 124)
    (block,) = [block for part in found.components for block in part.blocks if block.changed]
    assert block.model_dump() == {
        "name": "conv_out", "tensors": 2, "identical": 1, "recast": 0, "changed": 1, "reshaped": 0,
        "relative": 0.125, "largest": 0.125, "worst": "conv_out.weight",
    }  # fmt: skip
    assert component(found, "unet").changed == 1


def test_a_change_within_the_tolerance_passes(compared):
    other = moved(BASE, [f"{OUT}.weight"])
    assert compared(BASE, other, tolerance=0.126).equal
    assert not compared(BASE, other, tolerance=0.124).equal


def test_blocks_are_those_of_the_model(compared):
    blocks = {part.name: {block.name for block in part.blocks} for part in compared(BASE, BASE).components}
    assert blocks["unet"] == {
        "conv_in", "time_embedding", *(f"down_blocks.{n}" for n in range(4)), "mid_block",
        *(f"up_blocks.{n}" for n in range(4)), "conv_norm_out", "conv_out",
    }  # fmt: skip
    layers = {f"text_model.encoder.layers.{n}" for n in range(12)}
    assert blocks["text_encoder"] == layers | {"text_model.embeddings", "text_model.final_layer_norm"}
    assert {"encoder.down_blocks.3", "decoder.mid_block", "decoder.conv_in", "quant_conv"} < blocks["vae"]


def test_a_half_precision_save_is_told_from_training(compared):
    half = {name: tensor.astype("f2") for name, tensor in BASE.items()}
    for first, second in ((half, BASE), (BASE, half)):
        found = compared(first, second)
        assert not found.equal
        assert [(part.recast, part.changed) for part in found.components] == [(196, 0), (248, 0), (686, 0)]
        assert found.summary == [f"{same[:-1]}, in another dtype." for same in SAME]


def test_training_is_found_under_a_half_precision_save(compared):
    half = {name: tensor.astype("f2") for name, tensor in moved(BASE, names(".attn1.to_q.")).items()}
    assert (component(compared(half, BASE), "unet").changed, len(names(".attn1.to_q."))) == (16, 16)


def test_half_precision_numbers_in_single_precision_are_the_same(compared):
    half = {name: tensor.astype("f2") for name, tensor in BASE.items()}
    found = compared(half, {name: tensor.astype("f4") for name, tensor in half.items()})
    assert (found.equal, found.summary) == (True, SAME)


@pytest.mark.parametrize(("parts", "fate", "share", "where"), [
    ([".attn2.to_k.", ".attn2.to_v."], "UNet was trained", "32 of 686", ", all in the keys and values of its cross-attention"),
    ([".attn2."], "UNet was trained", "80 of 686", ", all in its cross-attention"),
    ([".attn1.", ".attn2."], "UNet was trained", "160 of 686", ", all in its attention"),
    ([".transformer_blocks."], "UNet was trained", "320 of 686", ", all in its transformer blocks"),
    ([UNET], "UNet was trained", "686 of 686", ""),
    ([TEXT], "text encoder was trained", "196 of 196", ""),
    (["token_embedding"], "text encoder was trained", "1 of 196", ", all in its token embeddings"),
    ([VAE], "VAE was replaced", "248 of 248", ""),
    ([f"{VAE}decoder.", f"{VAE}post_quant"], "VAE was replaced", "140 of 248", ", all in its decoder"),
    ([f"{VAE}encoder.mid"], "VAE was replaced", "26 of 248", ""),
])  # fmt: skip
def test_what_was_trained_is_told_in_words(compared, parts, fate, share, where):
    found = compared(BASE, moved(BASE, [name for part in parts for name in names(part)]))
    (told,) = {*found.summary} - {*SAME}
    assert told.startswith(f"The {fate}: {share} tensors changed{where}, by ")


def test_what_stands_beside_the_weights_is_counted_and_not_compared(compared):
    found = compared(BASE | averages(BASE) | schedule(), BASE | FOREIGN)
    assert found.equal
    assert (found.extras_in_a, found.extras_in_b) == ({"ema": 688, "schedule": 14}, {"foreign": 2})


def test_what_only_one_has_is_told(compared):
    found = compared({name: tensor for name, tensor in BASE.items() if VAE not in name}, BASE)
    assert (found.equal, found.only_in_a, len(found.only_in_b)) == (False, [], 124)
    assert (component(found, "vae").only_in_b, component(found, "vae").tensors) == (248, 0)
    assert "The VAE is only in the second." in found.summary


def test_a_model_that_lacks_a_tensor_is_compared_all_the_same(compared):
    found = compared({name: tensor for name, tensor in BASE.items() if name != f"{OUT}.bias"}, BASE)
    assert (found.equal, found.only_in_a, found.only_in_b) == (False, [], ["unet.conv_out"])
    assert found.summary[2] == "The UNet differs: 1 only in one of both."


def test_an_inpainting_model_has_an_input_of_another_shape(compared):
    found = compared(BASE, BASE | {CONV_IN: weights("sd1", channels=9)[CONV_IN]})
    assert (found.equal, found.max_error) == (False, math.inf)
    assert (component(found, "unet").reshaped, component(found, "unet").relative) == (1, 0.0)
    assert found.summary[2] == "The UNet differs: 1 of another shape."


def test_models_of_two_kinds_are_called_so(compared):
    found = compared(BASE, weights("sd2"))
    assert found.summary[0] == "These are models of two kinds: Stable Diffusion 1.x and Stable Diffusion 2.x."
    assert not found.equal


def test_a_number_that_is_none_is_never_equal(compared):
    broken = BASE | {f"{OUT}.bias": np.array([math.nan, 0], "f4")}
    assert compared(broken, broken).equal
    assert compared(broken, BASE).max_error == math.inf
    assert not compared(broken, BASE, tolerance=1e9).equal
    infinite = BASE | {f"{OUT}.bias": np.array([math.inf, 0], "f4")}
    assert not compared(infinite, infinite | {f"{OUT}.bias": np.array([math.inf, 1], "f4")}).equal


DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
          "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}  # fmt: skip


def lazy(tensor: torch.Tensor, dtype: str, piece: int) -> LazyTensor:
    """A tensor whose bytes come in pieces of `piece`, which need not end where a number does."""
    data = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return LazyTensor(dtype, tuple(tensor.shape), lambda: [data[at : at + piece] for at in range(0, len(data), piece)])


@pytest.mark.parametrize("first", DTYPES)
@pytest.mark.parametrize("second", DTYPES)
def test_sums_and_largest_values_are_those_of_float64(first, second):
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(300_001, generator=random).to(DTYPES[dtype]) for dtype in (first, second))
    x, y = a.double(), b.double()
    found = change(lazy(a, first, 99_991), lazy(b, second, 65_537))
    assert found.verdict == "changed"
    assert (found.largest, found.furthest) == (float(x.abs().max()), float((y - x).abs().max()))
    assert math.isclose(found.square, float(x.square().sum()), rel_tol=1e-12)
    assert math.isclose(found.moved, float((y - x).square().sum()), rel_tol=1e-12)


@pytest.mark.parametrize(("first", "second", "verdict"), [
    ("F32", "F16", "recast"), ("F16", "F32", "recast"), ("F32", "BF16", "recast"), ("F64", "F32", "recast"),
    ("F16", "BF16", "recast"), ("F32", "F8_E4M3", "recast"), ("F16", "F8_E5M2", "recast"),
    ("F32", "F32", "identical"), ("F16", "F16", "identical"),
])  # fmt: skip
def test_the_same_numbers_in_two_dtypes_are_told_by_rounding(first, second, verdict):
    numbers = torch.randn(300_001, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a = numbers.to(DTYPES[first])
    b = (a if (first, second) in {("F16", "BF16"), ("F16", "F8_E5M2")} else numbers).to(DTYPES[second])
    assert change(lazy(a, first, 1 << 22), lazy(b, second, 1 << 22)).verdict == verdict
    b[-1] = b[-1].double() + 1
    assert change(lazy(a, first, 1 << 22), lazy(b, second, 1 << 22)).verdict == "changed"


def test_a_linear_layer_equals_its_1x1_convolution():
    a = torch.arange(6.0).reshape(2, 3)
    assert change(lazy(a, "F32", 5), lazy(a[..., None, None], "F32", 7)).verdict == "identical"
    assert change(lazy(a, "F32", 5), lazy(a.T, "F32", 7)).verdict == "reshaped"


QUERIES = names(".attn1.to_q.weight")


def wide(tensors: Tensors, change: Callable[[np.random.Generator], np.ndarray] | None = None) -> Tensors:
    """The model with 32 × 32 queries: random ones, which `change` is added to."""
    random, other = np.random.default_rng(1), np.random.default_rng(2)
    queries = {name: random.standard_normal((32, 32)).astype("f4") for name in QUERIES}
    return tensors | {name: query + np.float32(change(other) if change else 0) for name, query in queries.items()}


def of_rank(rank: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda random: 0.02 * random.standard_normal((32, rank)) @ random.standard_normal((rank, 32))


def test_a_base_in_another_dtype_is_the_same_model(traced):
    told = traced({name: tensor.astype("f2") for name, tensor in BASE.items()}, BASE)
    found = told.descent
    assert {problem.code for problem in told.problems} == {"other-widths"}
    assert (found.verdict, found.merged_lora, found.equal, found.spectra) == ("same", False, 1.0, [])
    assert found.summary[0] == "The model is the base: no weight changed, but for casts."


@pytest.mark.parametrize(("rank", "merged"), [(4, True), (32, False)])
def test_a_merged_lora_is_told_from_training_by_its_rank(traced, rank, merged):
    told = traced(wide(BASE, of_rank(rank)), wide(BASE))
    found = told.descent
    assert (found.verdict, found.merged_lora) == ("descends", merged)
    assert found.equal == (1130 - 16) / 1130
    assert [(one.full, one.first_64) for one in found.spectra] == [(32, 1.0)] * 6
    assert [one.rank <= 4 for one in found.spectra] == [merged] * 6
    assert {problem.code for problem in told.problems} == {"other-widths"}


def test_the_spectrum_of_a_change_is_that_of_its_matrix(traced):
    """Singular values 10, 1, 1, … 1: their squares sum up to 131, of which the first 16 hold 115, and 99 % takes 30 ones."""
    found = traced(wide(BASE, lambda _: np.diag([10.0, *[1.0] * 31]) / 1024), wide(BASE)).descent.spectra[0]
    assert (found.full, found.rank) == (32, 31)
    assert math.isclose(found.first_16, 115 / 131, rel_tol=1e-3)


def test_how_far_a_model_moved_is_measured_from_the_base(traced):
    found = traced(moved(BASE, BASE, 1 / 4), BASE).descent
    assert (found.verdict, found.equal) == ("descends", 0.0)
    assert math.isclose(found.relative, 1 / 4, rel_tol=1e-6)


def test_a_text_encoder_of_another_model_is_no_sign_against_a_descent(traced):
    found = traced(moved(moved(BASE, names(TEXT), -2.0), QUERIES), BASE).descent
    assert found.verdict == "descends"
    assert "The text encoder is another one: 196 of 196 tensors changed, by 200 %." in found.summary


def test_a_model_that_was_not_trained_from_the_base_is_warned_of(traced):
    found = traced(moved(BASE, names(UNET), -2.0), BASE)
    assert (found.valid, found.descent.verdict) == (True, "unrelated")
    assert [problem.severity for problem in found.problems if problem.code == "does-not-descend"] == ["warning"]


def test_a_base_of_another_architecture_is_an_error(traced):
    found = traced(BASE, weights("sd2"))
    assert (found.valid, found.descent) == (False, None)
    assert [problem.message for problem in found.problems if problem.severity == "error"] == [
        "a model of Stable Diffusion 1.x, and the base is of Stable Diffusion 2.x"
    ]


def test_a_vae_descends_from_any_model_that_has_its_shapes(traced):
    vae = {name: tensor for name, tensor in BASE.items() if VAE in name}
    found = traced(vae, weights("sdxl") | vae)
    assert (found.valid, found.descent.verdict) == (True, "same")
    assert traced(vae, {name: tensor for name, tensor in BASE.items() if VAE not in name}).valid is False
