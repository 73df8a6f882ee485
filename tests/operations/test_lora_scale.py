"""scale: ΔW and Δb times a factor, of every algorithm, into alpha or into the weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import adapterhub
from adapterhub.errors import BrokenAdapter, OutputExists, RefusedInput, UnknownName, UsageError
from adapterhub.operations.lora import deltas
from adapterhub.operations.lora.scale import scaled
from adapterhub.tensors import from_bytes
from tests.operations.embedding_files import FIXTURES
from tests.operations.made_loras import (
    ADDITIVE,
    CONV,
    LINEAR,
    PRODUCTS,
    SHAPES,
    TEXT,
    change,
    changes,
    far,
    lora,
    normal,
    read,
    saved,
)


@pytest.mark.parametrize("factor", [0.7, -1.5, 2.0, 0.0])
@pytest.mark.parametrize("into", ["alpha", "weights"])
@pytest.mark.parametrize("name", ADDITIVE)
def test_every_change_is_multiplied(tmp_path, name, into, factor):
    made = {CONV: ADDITIVE[name](SHAPES[CONV]), LINEAR: lora(SHAPES[LINEAR])}
    done = adapterhub.scale(saved(tmp_path / "a.safetensors", made), tmp_path / "b.safetensors", factor, into=into)
    found = changes(tmp_path / "b.safetensors")
    for module, held in made.items():
        assert np.abs(found[module] - factor * change(held)).max() <= 2e-7 * np.abs(change(held)).max()
    assert (done.command, done.modules) == ("scale", 2)
    assert done.max_error < 2e-7
    assert done.max_error == 0 or factor not in (2.0, 0.0)
    assert done.exactness == ("exact" if done.max_error else "bit-exact")
    assert sum(done.summary.values()) == sum(map(len, made.values()))


@pytest.mark.parametrize("name", ["lora", "tucker", "loha", "lokr"])
def test_alpha_takes_the_factor_and_no_other_number_changes(tmp_path, name):
    made = {CONV: PRODUCTS[name](SHAPES[CONV]), LINEAR: lora(SHAPES[LINEAR])}
    done = adapterhub.scale(saved(tmp_path / "a.safetensors", made), tmp_path / "b.safetensors", 0.5)
    found = read(tmp_path / "b.safetensors")
    for module, held in made.items():
        assert found[module].pop("alpha") == held.pop("alpha") / 2
        assert {key: value.tobytes() for key, value in found[module].items()} == {
            key: value.tobytes() for key, value in held.items()
        }
    assert (done.exactness, done.max_error, done.summary["compute"]) == ("bit-exact", 0.0, 2)


def test_what_is_rounded_is_not_called_bit_exact(tmp_path):
    """Where α is metadata, every tensor is copied, and the factor may yet have been rounded."""
    done = adapterhub.scale(FIXTURES / "diffusers" / "sd1-lora.safetensors", tmp_path / "b.safetensors", 0.3)
    assert (done.exactness, done.max_error > 0, done.summary["compute"]) == ("exact", True, 0)


def test_a_power_of_two_goes_into_the_weights_exactly_and_what_does_not_is_rounded_once(tmp_path):
    made = {LINEAR: lora(SHAPES[LINEAR], dtype="f2")}
    source = saved(tmp_path / "a.safetensors", made)
    exact = adapterhub.scale(source, tmp_path / "b.safetensors", 4, into="weights")
    assert (exact.exactness, exact.max_error) == ("bit-exact", 0.0)
    rounded = adapterhub.scale(source, tmp_path / "c.safetensors", 0.7, into="weights")
    found = read(tmp_path / "c.safetensors")[LINEAR]
    up, down = (found[f"lora_{name}.weight"] for name in ("up", "down"))
    before = {name: made[LINEAR][f"lora_{name}.weight"] for name in ("up", "down")}
    changed = {"up": up, "down": down}
    (name,) = [name for name in changed if changed[name].tobytes() != before[name].tobytes()]
    assert changed[name].tobytes() == (before[name].astype("f8") * 0.7).astype("f2").tobytes()
    assert rounded.max_error == pytest.approx(far(change(found), 0.7 * change(made[LINEAR])), rel=1e-6)
    assert found["alpha"] == 2


def test_unet_and_text_encoders_are_scaled_apart(tmp_path):
    made = {LINEAR: lora(SHAPES[LINEAR]), TEXT: lora((768, 768))}
    adapterhub.scale(saved(tmp_path / "a.safetensors", made), tmp_path / "b.safetensors", 0.25, te=1)
    found = read(tmp_path / "b.safetensors")
    assert (found[LINEAR]["alpha"], found[TEXT]["alpha"]) == (0.5, 2.0)


def test_a_module_without_alpha_gets_one(tmp_path):
    made = {LINEAR: lora(SHAPES[LINEAR], alpha=None)}
    adapterhub.scale(saved(tmp_path / "a.safetensors", made), tmp_path / "b.safetensors", 0.5)
    assert read(tmp_path / "b.safetensors")[LINEAR]["alpha"] == 2.0


def test_where_a_layout_keeps_no_alpha_the_weights_take_it(tmp_path):
    made = {LINEAR: lora(SHAPES[LINEAR])}
    source = saved(tmp_path / "a.safetensors", made)
    done = adapterhub.scale(source, tmp_path / "b.safetensors", 0.5, to="diffusers-lora-linear")
    stored = {key.rpartition(".lora.")[2]: array for key, array in load_file(tmp_path / "b.safetensors").items()}
    assert far(stored["up.weight"].astype("f8") @ stored["down.weight"], 0.5 * change(made[LINEAR])) < 1e-15
    assert (done.exactness, done.summary["fold"] + done.summary["compute"]) == ("bit-exact", 2)


def test_biases_and_norms_are_multiplied_as_they_are(tmp_path):
    values = {"diff_b": normal(320), "w_norm": normal(320), "b_norm": normal(320)}
    path = "down_blocks.0.resnets.0.norm1"
    made = {
        CONV: {**lora(SHAPES[CONV]), "diff_b": values["diff_b"]},
        path: {name: values[name] for name in ("w_norm", "b_norm")},
    }
    adapterhub.scale(saved(tmp_path / "a.safetensors", made), tmp_path / "b.safetensors", -2)
    stored = load_file(tmp_path / "b.safetensors")
    for name, value in values.items():
        (found,) = [array for key, array in stored.items() if key.endswith(name)]
        assert found.tobytes() == (-2 * value).tobytes()


def tensors(**arrays):
    return {role: from_bytes({"f": "F32", "i": "I64"}[array.dtype.kind], array.shape, array.tobytes())
            for role, array in arrays.items()}  # fmt: skip


W = np.random.default_rng(3).standard_normal((6, 8))
RELATIVE = {
    "ia3 of LyCORIS": {"weight": normal(6), "on_input": np.array(0)},
    "ia3 of PEFT": {"ia3_l": 1 + normal(1, 8)},
    "glora": {"a1": normal(8, 2), "a2": normal(2, 8), "b1": normal(6, 2), "b2": normal(2, 8), "alpha": np.float32(1)},
    "oft of 2023": {"oft_diag": normal(3, 2, 2)},
}


@pytest.mark.parametrize("name", RELATIVE)
def test_what_is_linear_in_the_weight_is_scaled_too(name):
    from adapterhub.adapter import Role

    module = {Role(role): tensor for role, tensor in tensors(**RELATIVE[name]).items()}
    weight = torch.from_numpy(W)
    found, before = (deltas.change(roles, weight) for roles in (scaled(module, -0.3), module))
    assert float((found + 0.3 * before).abs().max()) < 1e-6 * float(before.abs().max())


@pytest.mark.parametrize(
    ("suffix", "array"),
    [("oft_blocks", normal(4, 80, 80)), ("oft_blocks", normal(2, 4, 80, 80)), ("set_weight", normal(320, 768))],
)
def test_modules_whose_strength_is_not_linear_are_refused_and_named(tmp_path, suffix, array):
    source = saved(
        tmp_path / "a.safetensors", {LINEAR: {suffix: array, "alpha": np.float32(0)}, CONV: lora(SHAPES[CONV])}
    )
    with pytest.raises(BrokenAdapter, match="1 of 2 modules take no strength") as refused:
        adapterhub.scale(source, tmp_path / "b.safetensors", 0.5)
    assert refused.value.places == (f"unet.{LINEAR}",)
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize("command", ["scale", "resize", "convert"])
def test_a_rotation_in_a_model_of_other_widths_is_proved_on_a_weight_of_any_length(tmp_path, command):
    random = np.random.default_rng(3)
    pair = {name: random.standard_normal(shape, "f4") for name, shape in (("down", (4, 24)), ("up", (24, 4)))}
    made = {LINEAR: {"oft_blocks": random.standard_normal((4, 5, 5), "f4") / 4, "alpha": np.float32(0)},
            TEXT: {f"lora_{name}.weight": value for name, value in pair.items()}}  # fmt: skip
    source = saved(tmp_path / "a.safetensors", made)
    done = {
        "scale": lambda target: adapterhub.scale(source, target, 1, te=0.5, architecture="sd1"),
        "resize": lambda target: adapterhub.resize(source, target, rank=1, architecture="sd1"),
        "convert": lambda target: adapterhub.convert(source, target, to="kohya", dtype="fp16", architecture="sd1"),
    }[command](tmp_path / "b.safetensors")
    turned = read(tmp_path / "b.safetensors")[LINEAR]["oft_blocks"]
    assert np.array_equal(turned, made[LINEAR]["oft_blocks"].astype(turned.dtype))
    assert done.modules == 2
    assert done.max_error < {"scale": 1e-7, "resize": 1, "convert": 1e-2}[command]


def test_a_magnitude_is_refused_unless_its_part_of_the_model_stays(tmp_path):
    made = {TEXT: {**lora((768, 768)), "dora_scale": np.ones((768, 1), "f4")}, LINEAR: lora(SHAPES[LINEAR])}
    source = saved(tmp_path / "a.safetensors", made)
    with pytest.raises(BrokenAdapter, match="DoRA"):
        adapterhub.scale(source, tmp_path / "b.safetensors", 0.5)
    done = adapterhub.scale(source, tmp_path / "b.safetensors", 0.5, te=1)
    assert done.exactness == "bit-exact"


def test_a_number_too_large_for_its_dtype_is_refused_and_nothing_is_left(tmp_path):
    source = saved(tmp_path / "a.safetensors", {LINEAR: lora(SHAPES[LINEAR], dtype="f2")})
    with pytest.raises(RefusedInput, match="too large"):
        adapterhub.scale(source, tmp_path / "b.safetensors", 1e6, into="weights")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(("factor", "error"), [(1e-320, 1.0), (1e-6, 0.01)])
def test_numbers_too_small_for_their_dtype_are_told_and_the_result_is_not_called_exact(tmp_path, factor, error):
    source = saved(tmp_path / "a.safetensors", {LINEAR: lora(SHAPES[LINEAR], dtype="f2")})
    done = adapterhub.scale(source, tmp_path / "b.safetensors", factor, into="weights")
    assert (done.exactness, [problem.code for problem in done.problems]) == ("approximate", ["underflow"])
    assert error <= done.max_error <= 1.0
    assert adapterhub.scale(source, tmp_path / "c.safetensors", 0.7, into="weights").problems == []


def test_a_fold_into_numbers_too_small_for_their_dtype_is_not_called_exact(tmp_path):
    source = saved(tmp_path / "a.safetensors", {LINEAR: lora(SHAPES[LINEAR], alpha=3e-5, dtype="f2")})
    done = adapterhub.convert(source, tmp_path / "b.safetensors", to="diffusers-lora-linear")
    assert (done.exactness, [problem.code for problem in done.problems]) == ("approximate", ["underflow"])


@pytest.mark.parametrize("factor", [1e308, -1e39, 1e-39, 1e-320])
def test_an_alpha_that_f32_does_not_hold_is_refused(tmp_path, factor):
    source = saved(tmp_path / "a.safetensors", {LINEAR: lora(SHAPES[LINEAR], alpha=3.3)})
    with pytest.raises(RefusedInput, match=r"alpha would be 3\.3 · .*, which F32 does not hold"):
        adapterhub.scale(source, tmp_path / "b.safetensors", factor)


@pytest.mark.parametrize("arguments", [{"factor": float("nan")}, {"factor": 1, "te": float("inf")}])
def test_a_factor_is_a_finite_number(tmp_path, arguments):
    source = saved(tmp_path / "a.safetensors", {LINEAR: lora(SHAPES[LINEAR])})
    with pytest.raises(UsageError, match="factor"):
        adapterhub.scale(source, tmp_path / "b.safetensors", **arguments)
    with pytest.raises(UnknownName):
        adapterhub.scale(source, tmp_path / "b.safetensors", 1, into="both")


def test_what_there_is_stays_unless_forced_and_a_dry_run_writes_nothing(tmp_path):
    source = saved(tmp_path / "a.safetensors", {LINEAR: lora(SHAPES[LINEAR])})
    done = adapterhub.scale(source, tmp_path / "b.safetensors", 2, dry_run=True)
    assert (done.dry_run, done.max_error, (tmp_path / "b.safetensors").exists()) == (True, None, False)
    (tmp_path / "b.safetensors").write_text("mine")
    with pytest.raises(OutputExists):
        adapterhub.scale(source, tmp_path / "b.safetensors", 2)
    assert (tmp_path / "b.safetensors").read_text() == "mine"
    adapterhub.scale(source, tmp_path / "b.safetensors", 2, force=True)
    with pytest.raises(UsageError, match="the source itself"):
        adapterhub.scale(source, source, 2, force=True)


def test_embeddings_and_hypernetworks_are_scaled_by_their_own_rules(tmp_path):
    vectors = normal(2, 768)
    save_file({"emb_params": vectors}, tmp_path / "cat.safetensors")
    done = adapterhub.scale(tmp_path / "cat.safetensors", tmp_path / "b.safetensors", 0.5)
    assert (done.command, load_file(tmp_path / "b.safetensors")["emb_params"].tobytes()) == (
        "embedding scale", (vectors / 2).tobytes(),
    )  # fmt: skip
    with pytest.raises(UsageError, match="no LoRA"):
        adapterhub.scale(tmp_path / "cat.safetensors", tmp_path / "c.safetensors", 0.5, te=1)


def test_the_command_line_says_the_same(tmp_path, capsys):
    from adapterhub.cli import run

    source = saved(tmp_path / "a.safetensors", {LINEAR: lora(SHAPES[LINEAR])})
    assert run(["scale", str(source), "-0.5", "-o", str(tmp_path / "b.safetensors"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["command"], told["exactness"], told["summary"]["compute"]) == ("scale", "bit-exact", 1)
    assert run(["scale", str(source), "2", "-o", str(tmp_path / "b.safetensors")]) == 2


@pytest.mark.parametrize(("shape", "on_input"), [((8,), 0), ((8,), 1), ((1, 8, 1, 1), 1), ((1, 8, 1, 1), 0)])
def test_ia3_of_other_widths_takes_a_strength(tmp_path, shape, on_input):
    made = {LINEAR: {"weight": np.linspace(-1, 2, 8, dtype="f4").reshape(shape), "on_input": np.array(on_input)}}
    done = adapterhub.scale(
        saved(tmp_path / "a.safetensors", made), tmp_path / "b.safetensors", 0.5, architecture="sd1"
    )
    assert done.max_error < 1e-15
    stored = read(tmp_path / "b.safetensors")[LINEAR]
    assert stored["weight"].tobytes() == (made[LINEAR]["weight"] / 2).tobytes()


def test_a_factor_that_nothing_takes_is_told(tmp_path):
    source = saved(tmp_path / "a.safetensors", {LINEAR: lora(SHAPES[LINEAR])})
    done = adapterhub.scale(source, tmp_path / "b.safetensors", 0.5, te=0.2)
    assert [(told.code, told.where, told.message) for told in done.problems] == [
        ("no-effect", "--te", "it changes nothing: no module of a text encoder is in the file")
    ]
    assert adapterhub.scale(source, tmp_path / "c.safetensors", 0.5).problems == []
