"""What `validate` finds in values: NaN and infinities, zeros, what float16 cannot hold, and what becomes of a base model."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from adapterhub.errors import NotAnAdapter
from adapterhub.operations.validate import validate
from adapterhub.operations.values import Numbers, numbers
from adapterhub.tensors import LazyTensor, from_bytes

DTYPES = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F16": torch.float16, "BF16": torch.bfloat16,
          "F32": torch.float32, "F64": torch.float64}  # fmt: skip


def found(validation):
    return [(problem.severity, problem.code, problem.where) for problem in validation.problems]


def lazy(tensor, name):
    return from_bytes(name, tuple(tensor.shape), tensor.contiguous().view(torch.uint8).numpy().tobytes())


@pytest.mark.parametrize("name", DTYPES)
def test_every_bit_pattern_is_judged_as_torch_judges_it(name):
    """All of 8 and 16 bits; 65536 random patterns of the wider dtypes, infinities and NaN among them."""
    dtype = DTYPES[name]
    width = dtype.itemsize
    generator = np.random.default_rng(1)
    raw = np.arange(256 if width == 1 else 65536, dtype="u1" if width == 1 else "<u2").tobytes()
    if width > 2:
        raw = generator.bytes(65536 * width) + np.array([np.inf, -np.inf, np.nan], f"<f{width}").tobytes()
    tensor = torch.frombuffer(bytearray(raw), dtype=dtype).double()
    finite = tensor[tensor.isfinite()]
    told = numbers(from_bytes(name, tuple(tensor.shape), raw))
    assert told == Numbers(float(finite.abs().max()), len(tensor) - len(finite))
    assert told.broken > 0


@given(st.lists(st.floats(width=16), max_size=12), st.integers(1, 5))
def test_pieces_are_judged_as_the_whole(values, size):
    data = np.array(values, "<f2").tobytes()
    pieces = LazyTensor(
        "F16", (len(values),), lambda: (data[at : at + 2 * size] for at in range(0, len(data), 2 * size))
    )
    finite = [abs(value) for value in values if math.isfinite(value)]
    assert numbers(pieces) == Numbers(max(finite, default=0.0), len(values) - len(finite))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_an_error_of_the_module(checked, modules, heads, places, dtype, value):
    tensors = modules(3, dtype=dtype)
    tensors[f"{heads[1]}.lora_up.weight"][3, 1] = value
    tensors[f"{heads[1]}.lora_up.weight"][4, 0] = value
    validation = checked(tensors)
    assert (validation.valid, found(validation)) == (False, [("error", "not-finite", places[1])])
    assert "lora_up has 2" in validation.problems[0].message


@pytest.mark.parametrize("side", ["up", "down"])
def test_a_module_of_zeros_is_a_warning(checked, modules, heads, places, side):
    tensors = modules(2)
    tensors[f"{heads[0]}.lora_{side}.weight"].zero_()
    validation = checked(tensors)
    assert (validation.valid, found(validation)) == (True, [("warning", "all-zero", places[0])])


def test_many_modules_of_zeros_are_one_warning_with_their_number(checked, modules, places):
    tensors = {name: tensor * 0 if "lora_up" in name else tensor for name, tensor in modules(15).items()}
    validation = checked(tensors)
    assert found(validation) == [("warning", "all-zero", places[0])]
    assert "(and 14 more like it)" in validation.problems[0].message


ZEROS = {
    "a bias beside it acts": ({"lora_up.weight": (320, 4), "lora_down.weight": (4, 768)}, {"diff_b": (320,)}, False),
    "a magnitude acts": ({"lora_up.weight": (320, 4), "lora_down.weight": (4, 768)}, {"dora_scale": (320, 1)}, False),
    "one zero factor of LoHa": ({"hada_w1_a": (320, 4)}, {"hada_w1_b": (4, 768), "hada_w2_a": (320, 4), "hada_w2_b": (4, 768)}, True),
    "one zero factor of LoKr": ({"lokr_w1": (4, 4)}, {"lokr_w2": (80, 192)}, True),
    "both are zero": ({"diff": (320, 768), "diff_b": (320,)}, {}, True),
    "one of both acts": ({"diff": (320, 768)}, {"diff_b": (320,)}, False),
    "a weight that replaces": ({"set_weight": (320, 768)}, {}, False),
    "a rotation by nothing": ({"oft_blocks": (4, 80, 80)}, {}, True),
    "a rotation that is itself stored": ({"oft_diag": (4, 80, 80)}, {}, False),
    "one of GLoRA's products": ({"a1.weight": (768, 4), "a2.weight": (4, 768)}, {"b1.weight": (320, 4), "b2.weight": (4, 768)}, False),
    "both of GLoRA's products": ({"a1.weight": (768, 4), "b2.weight": (4, 768)}, {"b1.weight": (320, 4), "a2.weight": (4, 768)}, True),
}  # fmt: skip


@pytest.mark.parametrize(("zero", "rest", "nothing"), ZEROS.values(), ids=ZEROS)
def test_what_zeros_mean_depends_on_the_algorithm(checked, modules, heads, places, zero, rest, nothing):
    tensors = {name: tensor for name, tensor in modules(4).items() if heads[0] not in name}
    tensors |= {f"{heads[0]}.{suffix}": torch.zeros(shape) for suffix, shape in zero.items()}
    tensors |= {f"{heads[0]}.{suffix}": torch.full(shape, 0.1) for suffix, shape in rest.items()}
    tensors |= {f"{heads[0]}.alpha": torch.tensor(4.0)}
    expected = [("warning", "all-zero", places[0])] if nothing else []
    assert [problem for problem in found(checked(tensors)) if problem[1] != "orphan-key"] == expected


@pytest.mark.parametrize(("dtype", "value", "code"), [
    (torch.float32, 65504.0, None), (torch.float32, 65536.0, "overflow"), (torch.bfloat16, -65536.0, "overflow"),
    (torch.float64, 1e300, "overflow"),
    (torch.float32, 2.0**-14, None), (torch.float32, -(2.0**-15), "underflow"), (torch.float16, 2.0**-20, "underflow"),
    (torch.bfloat16, 2.0**-100, "underflow"),
])  # fmt: skip
def test_values_beyond_float16_are_a_warning(checked, modules, heads, places, dtype, value, code):
    tensors = modules(2, dtype=dtype)
    tensors[f"{heads[0]}.lora_down.weight"][:] = value
    if abs(value) > 1:  # so that the product stays small
        tensors[f"{heads[0]}.lora_up.weight"][:] = 2.0**-9 if value < 1e9 else 0.5
        tensors[f"{heads[0]}.alpha"] = torch.tensor(2.0**-9 if value < 1e9 else 1e-300, dtype=dtype)
    validation = checked(tensors)
    assert (validation.valid, found(validation)) == (True, [("warning", code, places[0])] if code else [])


@pytest.mark.parametrize(
    ("alpha", "code"), [(4 * 65504.0, None), (4 * 65536.0, "overflow"), (-4 * 65536.0, "overflow")]
)
def test_a_change_beyond_float16_is_a_warning_though_its_factors_are_not(checked, modules, heads, places, alpha, code):
    """Factors of 0.5 at rank 4: every value of the change is 4 · 0.5 · 0.5 · alpha / 4 = alpha / 4."""
    tensors = modules(2)
    tensors[f"{heads[0]}.lora_down.weight"][:] = 0.5
    tensors[f"{heads[0]}.lora_up.weight"][:] = 0.5
    tensors[f"{heads[0]}.alpha"] = torch.tensor(alpha)
    expected = [("warning", code, places[0])] if code else []
    assert [problem for problem in found(checked(tensors)) if problem[1] != "alpha-negative"] == expected


def test_a_change_whose_factors_bound_it_too_loosely_is_computed(checked, modules, heads):
    """Largest values of 400 and 400 that never meet: the bound is 4 · 160000, the product 400."""
    tensors = modules(1)
    down, up = torch.zeros(4, 768), torch.zeros(320, 4)
    down[0], down[1], up[:, 0], up[:, 1] = 400.0, 1.0, 1.0, 400.0
    validation = checked({**tensors, f"{heads[0]}.lora_down.weight": down, f"{heads[0]}.lora_up.weight": up})
    assert validation.problems == []
    up[0, 0] = 400.0
    validation = checked({**tensors, f"{heads[0]}.lora_down.weight": down, f"{heads[0]}.lora_up.weight": up})
    assert "the change reaches 1.604e+05" in validation.problems[0].message


def test_factors_of_two_ranks_that_may_overflow_are_one_error(checked, modules, heads, places):
    tensors = modules(2)
    tensors[f"{heads[0]}.lora_up.weight"] = torch.full((320, 8), 60000.0)
    assert found(checked(tensors)) == [("error", "rank-mismatch", places[0])]


def a_base(path, places, *, drop=(), width=768, value=1.0):
    """A diffusers folder that holds a UNet with just the modules of `places`."""
    (path / "unet").mkdir(parents=True)
    (path / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    rows = {"down_blocks.0": 320, "down_blocks.1": 640, "down_blocks.2": 1280}
    weights = {f"{place.removeprefix('unet.')}.weight": torch.full((rows[place[5:18]], width), value)
               for place in places if place not in drop}  # fmt: skip
    save_file(weights, path / "unet/diffusion_pytorch_model.safetensors")
    (path / "vae").mkdir()
    save_file({"quant_conv.bias": torch.ones(8)}, path / "vae/diffusion_pytorch_model.safetensors")
    return path


def test_a_lora_that_fits_its_base_has_no_problems(checked, modules, places, tmp_path):
    assert checked(modules(6), base=a_base(tmp_path / "base", places[:6])).problems == []


def test_a_module_that_the_base_lacks_is_an_error(checked, modules, places, tmp_path):
    base = a_base(tmp_path / "base", places[:6], drop=places[2])
    assert found(checked(modules(6), base=base)) == [("error", "not-in-base", places[2])]


def test_a_base_of_another_width_is_an_error_at_each_module(checked, modules, places, tmp_path):
    base = a_base(tmp_path / "base", places[:6], width=1024)
    assert found(checked(modules(6), base=base)) == [("error", "base-shape", place) for place in places[:6]]


@pytest.mark.parametrize(("value", "code"), [(1.0, None), (math.nan, "not-finite"), (math.inf, "not-finite")])
def test_what_becomes_of_the_base_must_be_finite(checked, modules, heads, places, tmp_path, value, code):
    tensors = {**modules(2), f"{heads[0]}.dora_scale": torch.ones(320, 1)}
    base = a_base(tmp_path / "base", places[:2], value=value)
    assert found(checked(tensors, base=base)) == ([("error", code, places[0])] if code else [])


def test_a_magnitude_that_lies_on_neither_axis_is_an_error(checked, modules, heads, places, tmp_path):
    tensors = {**modules(2), f"{heads[0]}.dora_scale": torch.ones(33, 1)}
    assert found(checked(tensors, base=a_base(tmp_path / "base", places[:2]))) == [("error", "base-shape", places[0])]


def test_a_base_that_is_no_model_is_refused(lora_file, modules, tmp_path):
    save_file({"emb_params": torch.ones(1, 768)}, tmp_path / "embedding.safetensors")
    with pytest.raises(NotAnAdapter):
        validate(lora_file(modules(1)), base=tmp_path / "embedding.safetensors")
