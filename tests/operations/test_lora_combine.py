"""combine: Σ weight · ΔW by the formula, whatever the inputs are made of; approximations as good as numpy's full SVD."""

from __future__ import annotations

import json
from itertools import combinations_with_replacement

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import adapterhub
from adapterhub.errors import BrokenAdapter, OutputExists, RefusedInput, UnknownName, UsageError
from tests.operations.made_loras import (
    ADDITIVE,
    CONV,
    LINEAR,
    POINT,
    PRODUCTS,
    SHAPES,
    TEXT,
    change,
    changes,
    far,
    lora,
    normal,
    off,
    read,
    saved,
    tail,
)

WEIGHTS = (0.7, -0.4)
PAIRS = [(CONV, *names) for names in combinations_with_replacement(ADDITIVE, 2)] + [
    (LINEAR, *names) for names in combinations_with_replacement(sorted(ADDITIVE.keys() - {"tucker"}), 2)
]
"""Every two algorithms in one module; a core belongs to a convolution."""


def pair(folder, a, b):
    return [(saved(folder / "a.safetensors", a), WEIGHTS[0]), (saved(folder / "b.safetensors", b), WEIGHTS[1])]


def summed(a, b, module):
    parts = [weight * change(held[module]) for weight, held in zip(WEIGHTS, (a, b), strict=True) if module in held]
    return sum(parts)


@pytest.mark.parametrize(("module", "first", "second"), PAIRS)
def test_what_two_of_any_algorithm_do_is_added_exactly(tmp_path, module, first, second):
    a, b = ({module: ADDITIVE[name](SHAPES[module])} for name in (first, second))
    done = adapterhub.combine(pair(tmp_path, a, b), tmp_path / "c.safetensors")
    assert far(changes(tmp_path / "c.safetensors")[module], summed(a, b, module)) < 4e-7
    assert (done.command, done.exactness, done.modules, done.approximations) == ("combine", "exact", 1, [])
    assert done.max_error < 4e-7
    assert [source.path for source in done.inputs] == [str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")]
    assert sorted(key for entry in done.entries for key in entry.source) == sorted(
        f"{path}:{key}" for path in (tmp_path / "a.safetensors", tmp_path / "b.safetensors") for key in load_file(path)
    )


def test_ranks_alphas_and_dtypes_may_differ_and_ranks_add_up(tmp_path):
    a = {LINEAR: lora(SHAPES[LINEAR], rank=3, alpha=7.0, dtype="f2"), POINT: lora(SHAPES[POINT], rank=2, alpha=None)}
    b = {LINEAR: lora(SHAPES[LINEAR], rank=8, alpha=1.0), POINT: lora((320, 320), rank=5, alpha=2.5, dtype="f2")}
    done = adapterhub.combine(pair(tmp_path, a, b), tmp_path / "c.safetensors")
    found = read(tmp_path / "c.safetensors")
    assert found[LINEAR]["lora_down.weight"].shape == (11, 768)
    assert found[POINT]["lora_up.weight"].shape == (320, 7, 1, 1)
    for module in a:
        assert far(change(found[module]), summed(a, b, module)) < 2e-7
    assert done.exactness == "exact"


def test_factors_of_one_scale_are_joined_bit_for_bit(tmp_path):
    a, b = ({LINEAR: lora(SHAPES[LINEAR], rank=4, alpha=2.0, dtype="f2")} for _ in range(2))
    paths = [saved(tmp_path / f"{name}.safetensors", held) for name, held in (("a", a), ("b", b))]
    adapterhub.combine([(path, 0.5) for path in paths], tmp_path / "c.safetensors")
    found = read(tmp_path / "c.safetensors")[LINEAR]
    for name, axis in (("lora_down.weight", 0), ("lora_up.weight", 1)):
        assert found[name].tobytes() == np.concatenate([a[LINEAR][name], b[LINEAR][name]], axis).tobytes()
        assert found[name].dtype == np.float16
    assert found["alpha"] == 2.0  # 0.5 · 2 / 4 · 8


def test_modules_that_one_alone_has_keep_their_algorithm_at_its_weight(tmp_path):
    a = {CONV: PRODUCTS["loha"](SHAPES[CONV]), LINEAR: lora(SHAPES[LINEAR])}
    b = {TEXT: PRODUCTS["lokr"]((768, 768)), LINEAR: lora(SHAPES[LINEAR])}
    adapterhub.combine(pair(tmp_path, a, b), tmp_path / "c.safetensors")
    found = read(tmp_path / "c.safetensors")
    assert set(found[CONV]) == set(a[CONV])
    assert set(found[TEXT]) == set(b[TEXT])
    for module in (CONV, TEXT, LINEAR):
        assert far(change(found[module]), summed(a, b, module)) < 4e-7


def test_biases_and_norms_are_added(tmp_path):
    norm = "down_blocks.0.resnets.0.norm1"
    a = {CONV: {**lora(SHAPES[CONV]), "diff_b": normal(320)}, norm: {"w_norm": normal(320)}}
    b = {
        CONV: {"diff": normal(*SHAPES[CONV]), "diff_b": normal(320)},
        norm: {"w_norm": normal(320), "b_norm": normal(320)},
    }
    adapterhub.combine(pair(tmp_path, a, b), tmp_path / "c.safetensors")
    stored = {key.rpartition(".")[2]: array for key, array in load_file(tmp_path / "c.safetensors").items()}
    x, y = WEIGHTS
    assert far(stored["diff_b"], x * a[CONV]["diff_b"].astype("f8") + y * b[CONV]["diff_b"]) < 1e-7
    assert far(stored["w_norm"], x * a[norm]["w_norm"].astype("f8") + y * b[norm]["w_norm"]) < 1e-7
    assert far(stored["b_norm"], y * b[norm]["b_norm"].astype("f8")) < 1e-7


def test_inputs_in_different_layouts_are_added(tmp_path):
    made = {name: {LINEAR: lora(SHAPES[LINEAR]), CONV: lora(SHAPES[CONV], rank=2)} for name in "abc"}
    paths = {name: saved(tmp_path / f"{name}.safetensors", held) for name, held in made.items()}
    adapterhub.convert(paths["b"], tmp_path / "b.peft", to="peft")
    adapterhub.convert(paths["c"], tmp_path / "c.comfy.safetensors", to="comfyui")
    adapterhub.combine(
        [(tmp_path / "b.peft", 0.5), (paths["a"], 2), tmp_path / "c.comfy.safetensors"], tmp_path / "d.safetensors"
    )
    for module in (LINEAR, CONV):
        expected = sum(weight * change(made[name][module]) for name, weight in (("a", 2), ("b", 0.5), ("c", 1)))
        assert far(changes(tmp_path / "d.safetensors")[module], expected) < 4e-7


@pytest.mark.parametrize(
    "names", [("lora", "lora"), ("loha", "lokr"), ("tucker", "lora"), ("full", "lora")], ids=" and ".join
)
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_the_best_approximation_leaves_the_tail_of_the_singular_values(tmp_path, names, rank):
    a, b = ({CONV: ADDITIVE[name](SHAPES[CONV])} for name in names)
    done = adapterhub.combine(pair(tmp_path, a, b), tmp_path / "c.safetensors", rank=rank, dtype="fp32")
    expected = summed(a, b, CONV)
    found = read(tmp_path / "c.safetensors")[CONV]
    (told,) = done.approximations
    assert found["lora_down.weight"].shape == (rank, 320, 3, 3)
    assert told.error == pytest.approx(off(change(found), expected), abs=1e-12)
    assert told.error == pytest.approx(tail(expected, rank), abs=1e-9 if "full" not in names else 2e-3)
    assert (done.exactness, done.relative_error) == ("approximate", pytest.approx(told.error))


def test_a_rank_that_is_enough_is_exact(tmp_path):
    a, b = ({LINEAR: lora(SHAPES[LINEAR])} for _ in range(2))
    done = adapterhub.combine(pair(tmp_path, a, b), tmp_path / "c.safetensors", rank=8)
    assert (done.exactness, done.approximations, done.max_error < 4e-7) == ("exact", [], True)


@pytest.mark.parametrize("tolerance", [0.5, 0.2, 0.01])
def test_a_tolerance_takes_the_smallest_rank_that_keeps_to_it(tmp_path, tolerance):
    a, b = ({LINEAR: lora(SHAPES[LINEAR])} for _ in range(2))
    done = adapterhub.combine(pair(tmp_path, a, b), tmp_path / "c.safetensors", tolerance=tolerance)
    expected = summed(a, b, LINEAR)
    rank = next(rank for rank in range(1, 9) if tail(expected, rank) <= tolerance)
    assert (done.approximations[0].rank, done.approximations[0].error <= tolerance) == (rank, True)


def test_what_has_no_sum_is_refused_and_every_module_named(tmp_path):
    dora = {**lora(SHAPES[LINEAR]), "dora_scale": np.ones((320, 1), "f4")}
    ia3 = {"weight": normal(320), "on_input": np.array(0)}
    paths = pair(tmp_path, {LINEAR: dora, CONV: ia3}, {LINEAR: lora(SHAPES[LINEAR]), CONV: lora(SHAPES[CONV])})
    with pytest.raises(BrokenAdapter, match="2 of 2 modules cannot be combined") as refused:
        adapterhub.combine(paths, tmp_path / "c.safetensors")
    assert refused.value.places == (
        f"unet.{CONV}: a.safetensors: what ia3 changes depends on the weights",
        f"unet.{LINEAR}: a.safetensors: what lora+dora changes depends on the weights",
    )
    assert not (tmp_path / "c.safetensors").exists()


def test_the_command_line_lists_what_has_no_sum_on_lines_of_their_own(tmp_path, capsys):
    from adapterhub.cli import run

    dora = {LINEAR: {**lora(SHAPES[LINEAR]), "dora_scale": np.ones((320, 1), "f4")}}
    paths = [str(path) for path, _ in pair(tmp_path, dora, {LINEAR: lora(SHAPES[LINEAR])})]
    assert run(["combine", *paths, "-o", str(tmp_path / "c.safetensors")]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [
        "error: 1 of 1 modules cannot be combined",
        f"  unet.{LINEAR}: a.safetensors: what lora+dora changes depends on the weights",
    ]


@pytest.mark.parametrize("weight", [1e308, -1e39])
def test_a_weight_that_makes_a_strength_too_large_is_refused(tmp_path, weight):
    a, b = (saved(tmp_path / f"{name}.safetensors", {LINEAR: lora(SHAPES[LINEAR], alpha=400.0)}) for name in ("a", "b"))
    with pytest.raises(RefusedInput, match=r"· a\.safetensors: F32 does not hold such a strength"):
        adapterhub.combine([(a, weight), b], tmp_path / "c.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_an_alpha_that_overflows_the_dtype_is_refused_by_its_name(tmp_path):
    a = saved(tmp_path / "a.safetensors", {LINEAR: lora(SHAPES[LINEAR]), CONV: lora(SHAPES[CONV])})
    b = saved(tmp_path / "b.safetensors", {LINEAR: lora(SHAPES[LINEAR])})
    with pytest.raises(RefusedInput, match=rf"^unet\.{CONV}\.alpha is 2e\+06, which F16 does not hold") as refused:
        adapterhub.combine([(a, 1e6), (b, 1e-9)], tmp_path / "c.safetensors", dtype="fp16")
    assert refused.value.mend == "Give --dtype fp32 or bf16, which do."
    adapterhub.combine([(a, 1e6), (b, 1e-9)], tmp_path / "c.safetensors", dtype="bf16")


def test_architectures_that_differ_are_refused(tmp_path):
    a = saved(tmp_path / "a.safetensors", {LINEAR: lora(SHAPES[LINEAR])})
    head = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    save_file({f"{head}.{name}": array for name, array in lora((640, 2048)).items()}, tmp_path / "b.safetensors")
    with pytest.raises(RefusedInput, match=r"is for sd1, .* is for sdxl"):
        adapterhub.combine([a, tmp_path / "b.safetensors"], tmp_path / "c.safetensors")


def test_values_that_are_no_numbers_are_refused_and_nothing_is_left(tmp_path):
    a, b = ({LINEAR: lora(SHAPES[LINEAR])} for _ in range(2))
    b[LINEAR]["lora_up.weight"][0, 0] = np.nan
    paths = pair(tmp_path, a, b)
    for arguments in ({}, {"rank": 2}):
        with pytest.raises(RefusedInput, match="not finite"):
            adapterhub.combine(paths, tmp_path / "c.safetensors", **arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"method": "svd"}, UsageError), ({"method": "ties"}, UsageError), ({"method": "slerp", "rank": 2}, UnknownName),
        ({"rank": 2, "tolerance": 0.1}, UsageError), ({"tolerance": 1.0}, UsageError), ({"rank": 0}, UsageError),
        ({"density": 0.5}, UsageError), ({"seed": 3}, UsageError), ({"seed": 3, "method": "ties", "rank": 2}, UsageError), ({"method": "dare", "rank": 2, "density": 0.0}, UsageError),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(tmp_path, arguments, error):
    with pytest.raises(error):
        adapterhub.combine(
            [saved(tmp_path / "a.safetensors", {LINEAR: lora(SHAPES[LINEAR])})], tmp_path / "c.safetensors", **arguments
        )


def test_the_command_line_takes_weights_and_an_existing_file_stays(tmp_path, capsys):
    from adapterhub.cli import run

    a, b = ({LINEAR: lora(SHAPES[LINEAR])} for _ in range(2))
    (first, _), (second, _) = pair(tmp_path, a, b)
    target = tmp_path / "c.safetensors"
    command = ["combine", f"{first}:0.7", f"{second}:-0.4", "-o", str(target)]
    assert run([*command, "--dry-run", "--json"]) == 0
    assert (json.loads(capsys.readouterr().out)["dry_run"], target.exists()) == (True, False)
    assert run([*command, "--rank", "2"]) == 0
    assert "1 modules approximated, relative error" in capsys.readouterr().out
    assert run(command) == 2
    with pytest.raises(OutputExists):
        adapterhub.combine([first], target)
    assert run([*command, "--force"]) == 0
    assert far(changes(target)[LINEAR], summed(a, b, LINEAR)) < 4e-7


def test_metadata_says_what_it_was_made_of_and_its_ranks(tmp_path):
    from safetensors import safe_open

    fields = {
        "ss_network_dim": "4",
        "ss_network_alpha": "2",
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "note": "kept",
    }
    a, b = {LINEAR: lora(SHAPES[LINEAR]), CONV: lora(SHAPES[CONV])}, {LINEAR: lora(SHAPES[LINEAR])}
    paths = [
        saved(tmp_path / "a.safetensors", a, {**fields, "mine": "a"}),
        saved(tmp_path / "b.safetensors", b, fields),
    ]
    adapterhub.combine(paths, tmp_path / "c.safetensors")
    with safe_open(tmp_path / "c.safetensors", "np") as stored:
        found = stored.metadata()
    assert (found["modelspec.merged_from"], found["ss_network_dim"], found["note"]) == ("a, b", "Dynamic", "kept")
    assert "mine" not in found
