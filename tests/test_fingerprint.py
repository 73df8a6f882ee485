"""The fingerprint: one for whatever says the same adapter, another for whatever does something else."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest

import adapterhub
import adapterhub.layouts as layouts
from adapterhub import files
from adapterhub.adapter import Adapter, Key, Kind, Role, Roles
from adapterhub.algorithms import algorithm_of, rank_of
from adapterhub.fingerprint import fingerprint
from adapterhub.tensors import FLOATS, LazyTensor, from_bytes, item, scalar, values

FIXTURES = Path(__file__).parents[1] / "fixtures"
MANIFEST = json.loads((FIXTURES / "manifest.json").read_text("utf-8"))
KOHYA = [name.partition("-")[2].removesuffix(".safetensors") for name in MANIFEST if name.startswith("kohya/sd1-")]
PRODUCTS = (
    "lora",
    "locon",
    "tucker",
    "dora",
    "dora-columns",
    "residual",
    "loha",
    "loha-tucker",
    "lokr-both",
    "lokr-tucker",
)
NO_ALPHA = ("cloneofsimo", "diffusers-attn-procs", "diffusers-lora-linear")
TWINS: dict[str, list[str]] = {}
for _name, _row in MANIFEST.items():
    if "/" in _name and _row["layout"] not in NO_ALPHA:
        TWINS.setdefault(_name.partition("/")[2].removesuffix(".safetensors"), []).append(_name)
R = Role


def opened(name: str) -> Adapter:
    """The adapter in a golden file, its tensors in memory."""
    with files.read(FIXTURES / name) as package:
        identity = layouts.identify(package)
        adapter = identity.fit.layout.decode(package, identity.fit).adapter
        return adapter.with_tensors({key: from_bytes(t.dtype, t.shape, t.read()) for key, t in adapter.tensors.items()})


def kohya(recipe: str) -> Adapter:
    return opened(f"kohya/sd1-{recipe}.safetensors")


def adapter(tensors: Mapping[Role, LazyTensor], module: str = "conv_in") -> Adapter:
    return Adapter(Kind.LORA, "sd1", {Key("unet", module, role): tensor for role, tensor in tensors.items()})


def array(numbers: Iterable[object], dtype: str = "F32") -> LazyTensor:
    found = np.array(numbers, {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I64": "<i8"}[dtype])
    return from_bytes(dtype, found.shape, found.tobytes())


def times(tensor: LazyTensor, factor: float) -> LazyTensor:
    return array((values(tensor).astype("<f8") * factor).tolist(), "F64")


@pytest.mark.parametrize("stem", [stem for stem, names in TWINS.items() if len(names) > 1])
def test_golden_files_of_one_adapter_have_one_fingerprint_in_every_layout(stem):
    found = {name: fingerprint(opened(name)) for name in TWINS[stem]}
    assert len(set(found.values())) == 1, found


def test_golden_files_of_different_adapters_have_different_fingerprints():
    found = {stem: fingerprint(opened(names[0])) for stem, names in TWINS.items()}
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize("layout", ["diffusers-lora-linear", "diffusers"])
def test_a_conversion_that_folds_a_power_of_two_keeps_the_fingerprint(layout, tmp_path):
    source, out = FIXTURES / "kohya/sd1-lora.safetensors", tmp_path / "out.safetensors"
    adapterhub.convert(source, out, to=layout)
    assert adapterhub.inspect(out, hash=True).fingerprint == adapterhub.inspect(source, hash=True).fingerprint


@pytest.mark.parametrize("architecture", ["sd1", "sd2", "sdxl", "sdxl-refiner"])
def test_pefts_ia3_keeps_its_fingerprint_in_the_terms_of_lycoris(architecture, tmp_path):
    source, out = FIXTURES / f"peft/{architecture}-ia3-multiplier", tmp_path / "out.safetensors"
    adapterhub.convert(source, out, to="kohya")
    assert adapterhub.inspect(out, hash=True).fingerprint == adapterhub.inspect(source, hash=True).fingerprint


@pytest.mark.parametrize("recipe", KOHYA)
def test_the_order_of_keys_and_metadata_do_not_count(recipe):
    found = kohya(recipe)
    backwards = Adapter(Kind.LORA, "sd2", dict(reversed(found.tensors.items())), {"ss_seed": "1"})
    assert fingerprint(backwards) == fingerprint(found)


@pytest.mark.parametrize("dtype", ["F32", "F64"])
@pytest.mark.parametrize("recipe", KOHYA)
def test_values_stored_in_a_wider_dtype_are_the_same(recipe, dtype):
    found = kohya(recipe)
    wider = {key: array(values(tensor).tolist(), dtype).reshape(*tensor.shape) if tensor.dtype in FLOATS else tensor
             for key, tensor in found.tensors.items()}  # fmt: skip
    assert fingerprint(found.with_tensors(wider)) == fingerprint(found)


def scaled(tensors: Roles, roles: Iterable[Role], factor: float) -> dict[Role, LazyTensor]:
    return {role: times(tensor, factor) if role in roles else tensor for role, tensor in tensors.items()}


@pytest.mark.parametrize("power", [1, -1, 7])
@pytest.mark.parametrize("recipe", PRODUCTS)
def test_a_power_of_two_may_sit_in_any_factor_or_in_alpha(recipe, power):
    found = kohya(recipe)
    for module, tensors in found.modules().items():
        (factors,) = algorithm_of(tensors).factors
        for factor in [role for role in factors if role in tensors]:
            moved = scaled(scaled(tensors, {factor}, 2.0**power), {R.ALPHA}, 2.0**-power)
            others = {key: tensor for key, tensor in found.tensors.items() if key[:2] != module}
            again = found.with_tensors(others | {Key(*module, role): tensor for role, tensor in moved.items()})
            assert fingerprint(again) == fingerprint(found), (module, factor)


@pytest.mark.parametrize("factor", [R.UP, R.DOWN])
def test_alpha_that_is_folded_into_either_factor_is_the_same_as_kept(factor):
    kept = {R.DOWN: array([[1, 2], [3, 4]]), R.UP: array([[5, 6], [7, 8], [9, 10]]), R.ALPHA: scalar(0.5)}
    folded = {
        role: times(tensor, 0.25 if role is factor else 1) for role, tensor in kept.items() if role is not R.ALPHA
    }
    assert fingerprint(adapter(folded)) == fingerprint(adapter(kept))


@pytest.mark.parametrize("recipe", ["glora", "glora-old"])
def test_alpha_of_glora_scales_both_of_its_products(recipe):
    found = kohya(recipe)
    ((module, tensors),) = found.modules().items()
    both = scaled(scaled(tensors, {R.GLORA_A1, R.GLORA_B2}, 2), {R.ALPHA}, 0.5)
    one = scaled(scaled(tensors, {R.GLORA_A1}, 2), {R.ALPHA}, 0.5)
    assert fingerprint(adapter(both, module.module)) == fingerprint(found)
    assert fingerprint(adapter(one, module.module)) != fingerprint(found)


def test_what_multiplies_is_the_same_as_alpha_scale_or_scalar():
    factors = {R.DOWN: array([[1, 2], [3, 4]]), R.UP: array([[5, 6]])}
    alpha, scale, times_scalar = (
        adapter({**factors, **more})
        for more in ({R.ALPHA: scalar(3)}, {R.SCALE: scalar(1.5)}, {R.ALPHA: scalar(1), R.SCALAR: scalar(3)})
    )
    assert fingerprint(alpha) == fingerprint(scale) == fingerprint(times_scalar)


def test_alpha_of_a_lokr_of_whole_factors_does_not_count():
    whole = {R.LOKR_W1: array([[1, 2]]), R.LOKR_W2: array([[3], [4]])}
    assert fingerprint(adapter({**whole, R.ALPHA: scalar(8)})) == fingerprint(adapter(whole))


def test_linear_and_1x1_and_flattened_shapes_are_the_same():
    linear = {R.DOWN: array([[1, 2, 3]]), R.UP: array([[5], [6]]), R.DORA_SCALE: array([[7], [8]])}
    conv = {R.DOWN: linear[R.DOWN].reshape(1, 3, 1, 1), R.UP: linear[R.UP].reshape(2, 1, 1, 1),
            R.DORA_SCALE: linear[R.DORA_SCALE].reshape(2, 1, 1, 1)}  # fmt: skip
    assert fingerprint(adapter(conv)) == fingerprint(adapter(linear))
    kernel = {R.DOWN: array([[range(9), range(9)]]).reshape(1, 2, 3, 3), R.UP: array([[5], [6]]).reshape(2, 1, 1, 1)}
    flat = {R.DOWN: kernel[R.DOWN].reshape(1, 18), R.UP: array([[5], [6]])}
    assert fingerprint(adapter(flat)) == fingerprint(adapter(kernel))


def test_the_two_axes_of_a_magnitude_are_different():
    square = {R.DOWN: array([[1, 2]]), R.UP: array([[5], [6]])}
    rows, columns = ({**square, R.DORA_SCALE: array([7, 8]).reshape(*shape)} for shape in ((2, 1), (1, 2)))
    assert fingerprint(adapter(rows)) != fingerprint(adapter(columns))


@pytest.mark.parametrize("nothing", [
    {R.DOWN: array([[1, 2]]), R.UP: array([[0], [0]])},
    {R.DOWN: array([[1, 2]]), R.UP: array([[0], [0]]), R.ALPHA: scalar(4)},
    {R.DOWN: array([[1, 2]]), R.UP: array([[5], [6]]), R.ALPHA: scalar(0)},
], ids=["an untrained factor", "an untrained factor and alpha", "alpha is 0"])  # fmt: skip
def test_products_that_are_zero_are_the_same_however_that_is_said(nothing):
    zero = {R.DOWN: array([[0, 0]]), R.UP: array([[5], [6]]), R.ALPHA: scalar(1)}
    something = {R.DOWN: array([[1, 0]]), R.UP: array([[5], [6]]), R.ALPHA: scalar(1)}
    assert fingerprint(adapter(nothing)) == fingerprint(adapter(zero)) != fingerprint(adapter(something))


def test_pefts_bias_is_the_bias_that_it_becomes():
    factors = {R.DOWN: array([[1, 2], [3, 4]]), R.UP: array([[5, 6]]), R.ALPHA: scalar(4)}
    scaled_with_it, plain = {**factors, R.UP_BIAS: array([1.5])}, {**factors, R.DIFF_B: array([3])}
    assert fingerprint(adapter(scaled_with_it)) == fingerprint(adapter(plain))


def test_a_dense_residual_counts_with_the_scale_that_it_is_given():
    one = {R.DOWN: array([[1, 2]]), R.UP: array([[5], [6]]), R.RESIDUAL: array([[1, 0], [0, 1]]), R.ALPHA: scalar(1)}
    two = {**one, R.UP: array([[2.5], [3]]), R.ALPHA: scalar(2)}
    assert fingerprint(adapter(two)) != fingerprint(adapter(one))
    assert fingerprint(adapter({**two, R.RESIDUAL: array([[0.5, 0], [0, 0.5]])})) == fingerprint(adapter(one))


def test_pefts_multiplier_is_lycoris_difference_on_the_same_axis():
    rows = {R.IA3_L: array([[1.5], [0.5]], "F16")}, {R.IA3_WEIGHT: array([0.5, -0.5]), R.ON_INPUT: array(0, "I64")}
    columns = {R.IA3_L: array([[1.5, 0.5]], "F16")}, {R.IA3_WEIGHT: array([0.5, -0.5]), R.ON_INPUT: array(1, "I64")}
    found = [fingerprint(adapter(tensors)) for tensors in (*rows, *columns)]
    assert found[0] == found[1] != found[2] == found[3]


def test_a_constraint_of_0_constrains_nothing():
    blocks = {R.OFT_BLOCKS: array([[[0, 1], [2, 0]]])}
    free, zero, bound = ({**blocks, **more} for more in ({}, {R.ALPHA: scalar(0)}, {R.ALPHA: scalar(0.5)}))
    assert fingerprint(adapter(free)) == fingerprint(adapter(zero)) != fingerprint(adapter(bound))


@pytest.mark.parametrize("broken", [
    {R.DOWN: array([[1, 2]]), R.UP: array([[5], [6]]), R.ALPHA: array([1, 2])}, {R.DIFF: from_bytes("C64", (1,), b"12345678")},
    {R.DOWN: from_bytes("F4", (2, 2), b"ab"), R.UP: array([[5], [6]])},
], ids=["two alphas", "complex numbers", "packed numbers"])  # fmt: skip
def test_a_module_that_makes_no_sense_counts_by_its_bytes(broken):
    other = {role: from_bytes(tensor.dtype, tensor.shape, bytes(tensor.nbytes)) for role, tensor in broken.items()}
    found = fingerprint(adapter(broken))
    assert found == fingerprint(adapter(dict(reversed(broken.items())))) != fingerprint(adapter(other))


def changed(tensor: LazyTensor, place: int) -> LazyTensor:
    """One element of `tensor` with its lowest bit flipped."""
    width = tensor.nbytes // tensor.size
    data = bytearray(tensor.read())
    data[place * width] ^= 1
    return from_bytes(tensor.dtype, tensor.shape, bytes(data))


def does_nothing(key: Key, tensors: Roles) -> bool:
    """Whether a tensor is an alpha that scales and constrains nothing."""
    if key.role is not R.ALPHA or algorithm_of(tensors).name in ("oft", "boft"):
        return False
    return rank_of(tensors) is None or item(tensors[R.ALPHA]) == 0


@pytest.mark.parametrize("recipe", KOHYA)
def test_another_value_anywhere_gives_another_fingerprint(recipe):
    found = kohya(recipe)
    for key, tensor in found.tensors.items():
        if does_nothing(key, found.modules().get(key[:2])):
            continue
        if key.role is R.ALPHA:
            others = [scalar(item(tensor) * 1.5 + 0.25)]
        else:
            others = [changed(tensor, 0), changed(tensor, tensor.size - 1)]
        prints = [fingerprint(found.with_tensors({**found.tensors, key: other})) for other in others]
        assert fingerprint(found) not in prints, key


@pytest.mark.parametrize("recipe", KOHYA)
def test_another_module_gives_another_fingerprint(recipe):
    found = kohya(recipe)
    for module in found.modules():
        renamed = {Key(key.component, f"{key.module}.other", key.role) if key[:2] == module else key: tensor
                   for key, tensor in found.tensors.items()}  # fmt: skip
        moved = {Key("text_encoder_2", *key[1:]) if key[:2] == module else key: tensor
                 for key, tensor in found.tensors.items()}  # fmt: skip
        without = {key: tensor for key, tensor in found.tensors.items() if key[:2] != module}
        for tensors in (renamed, moved, without):
            assert fingerprint(found.with_tensors(tensors)) != fingerprint(found)


@pytest.mark.parametrize("recipe", PRODUCTS)
def test_twice_the_strength_gives_another_fingerprint(recipe):
    found = kohya(recipe)
    for module, tensors in found.modules().items():
        for role in {R.ALPHA, *algorithm_of(tensors).factors[0]} & tensors.keys():
            key = Key(*module, role)
            twice = found.with_tensors({**found.tensors, key: times(found.tensors[key], 2)})
            assert fingerprint(twice) != fingerprint(found), key


def test_another_algorithm_of_the_same_values_gives_another_fingerprint():
    one, other = array([[1, 2], [3, 4]]), array([[5, 6], [7, 8]])
    said = [
        {R.DIFF: one}, {R.SET_WEIGHT: one}, {R.W_NORM: one}, {R.DIFF_B: one}, {R.RESCALE: one, R.OFT_BLOCKS: one},
        {R.DOWN: one, R.UP: other}, {R.DOWN: other, R.UP: one}, {R.LOKR_W1: one, R.LOKR_W2: other},
        {R.HADA_W1_A: one, R.HADA_W1_B: other, R.HADA_W2_A: one, R.HADA_W2_B: other},
        {R.GLORA_A1: one, R.GLORA_A2: other, R.GLORA_B1: one, R.GLORA_B2: other},
        {R.OFT_BLOCKS: one}, {R.OFT_DIAG: one}, {R.OFT_R: one}, {R.BOFT_R: one, R.BOFT_S: other},
        {R.IA3_WEIGHT: one, R.ON_INPUT: array(1, "I64")}, {R.IA3_WEIGHT: one, R.ON_INPUT: array(0, "I64")},
    ]  # fmt: skip
    assert len({fingerprint(adapter(tensors)) for tensors in said}) == len(said)


def test_the_fingerprint_is_pinned():
    """It is stored in registries: whoever changes it must change its version too."""
    tensors = {R.DOWN: array([[1, 2]]), R.UP: array([[0.5], [3]]), R.ALPHA: scalar(1)}
    digest = hashlib.sha256(b"adapterhub fingerprint 1")
    digest.update(b"\nunet\0conv_in\0" + b"lora")
    digest.update(b"lora_up[2, 1]" + np.array([0.5 / 4, 3 / 4], "<f4").tobytes())
    digest.update(b"lora_down[1, 2]" + np.array([1 / 4, 2 / 4], "<f4").tobytes())
    digest.update(f"{1 << 19}:{1 + 2 + 2}".encode())  # 1 = 0.5 · 2¹
    assert fingerprint(adapter(tensors)) == digest.hexdigest()
