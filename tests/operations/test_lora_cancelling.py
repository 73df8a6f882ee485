"""Sums that are nothing, and weights that are next to nothing, are told as what they are."""

from __future__ import annotations

import numpy as np
import pytest

import adapterhub
from adapterhub.errors import RefusedInput
from tests.operations.made_loras import CONV, LINEAR, SHAPES, TEXT, change, read, saved

RANDOM = np.random.default_rng(2)


def pair(shape, rank=4):
    """A LoRA or LoCon of float32."""
    rows, *row = shape
    return {"lora_down.weight": RANDOM.standard_normal((rank, *row)).astype("f4"),
            "lora_up.weight": RANDOM.standard_normal((rows, rank, *(1 for _ in row[1:]))).astype("f4"),
            "alpha": np.float32(2)}  # fmt: skip


@pytest.mark.parametrize("arguments", [{"tolerance": 0.1}, {"rank": 2}, {"rank": 2, "dtype": "fp16"}])
@pytest.mark.parametrize("module", [LINEAR, CONV])
def test_changes_that_cancel_are_told_and_nothing_is_approximated(tmp_path, module, arguments):
    source = saved(tmp_path / "a.safetensors", {module: pair(SHAPES[module]), TEXT: pair((768, 768))})
    other = saved(tmp_path / "b.safetensors", {module: read(source)[module]})
    done = adapterhub.combine([source, (other, -1.0)], tmp_path / "c.safetensors", **arguments)
    found = read(tmp_path / "c.safetensors")[module]
    assert not change(found).any()
    (cancelled,) = [one for one in done.approximations if one.module == f"unet.{module}"]
    assert (cancelled.rank, cancelled.error) == (1, 0.0)
    assert done.relative_error < 1
    assert done.max_error < 1
    (told,) = [problem.message for problem in done.problems if problem.code == "cancelled"]
    assert told == "the changes of 1 modules cancel: their sum is zero within rounding, and zeros are stored"
    (entry,) = [entry for entry in done.entries if any(module.replace(".", "_") in name for name in entry.target)]
    assert (
        entry.reason == "F32 to F16"
        if "dtype" in arguments
        else entry.reason.endswith("; the sum is zero within rounding")
    )


def test_full_differences_that_cancel_are_told_too(tmp_path):
    value = RANDOM.standard_normal(SHAPES[LINEAR]).astype("f4")
    a, b = (saved(tmp_path / f"{name}.safetensors", {LINEAR: {"diff": value}}) for name in "ab")
    done = adapterhub.combine([(a, 0.1), (b, 0.2), (a, -0.3)], tmp_path / "c.safetensors", rank=2)
    assert (done.max_error, done.relative_error, [one.rank for one in done.approximations]) == (0.0, 0.0, [1])


def test_a_small_sum_of_large_terms_is_no_rounding(tmp_path):
    first = pair(SHAPES[LINEAR])
    second = first | {"lora_up.weight": first["lora_up.weight"] * np.float32(1 + 2.0**-20)}
    paths = [saved(tmp_path / f"{name}.safetensors", {LINEAR: made}) for name, made in (("a", first), ("b", second))]
    done = adapterhub.combine([paths[0], (paths[1], -1.0)], tmp_path / "c.safetensors", tolerance=0.01)
    assert done.relative_error < 1e-6
    assert not [problem for problem in done.problems if problem.code == "cancelled"]


@pytest.mark.parametrize("weight", [1e-320, 1e-45, -1e-40])
def test_a_weight_that_makes_a_strength_too_small_is_refused(tmp_path, weight):
    first, second = (saved(tmp_path / f"{name}.safetensors", {LINEAR: pair(SHAPES[LINEAR])}) for name in "ab")
    for arguments in ({}, {"rank": 2}):
        with pytest.raises(RefusedInput, match="F32 does not hold such a strength"):
            adapterhub.combine([(first, weight), (second, weight)], tmp_path / "c.safetensors", **arguments)
    assert not (tmp_path / "c.safetensors").exists()


@pytest.mark.parametrize("arguments", [{}, {"rank": 64}, {"dtype": "fp16"}])
def test_joined_factors_that_cancel_leave_no_rounding_behind(tmp_path, arguments):
    source = saved(tmp_path / "a.safetensors", {LINEAR: pair(SHAPES[LINEAR]), TEXT: pair((768, 768))})
    done = adapterhub.combine([(source, 0.1), (source, 0.2), (source, -0.3)], tmp_path / "c.safetensors", **arguments)
    assert done.max_error == 0.0
    assert not any(change(found).any() for found in read(tmp_path / "c.safetensors").values())
    (told,) = [problem for problem in done.problems if problem.code == "cancelled"]
    assert told.mend == "If that is not meant, change the weights: what one adds, another takes away."


def test_a_lora_and_its_opposite_are_joined_bit_for_bit(tmp_path):
    source = saved(tmp_path / "a.safetensors", {LINEAR: pair(SHAPES[LINEAR])})
    done = adapterhub.combine([source, (source, -1.0)], tmp_path / "c.safetensors")
    assert (done.exactness, done.max_error, done.approximations) == ("bit-exact", 0.0, [])
    assert abs(change(read(tmp_path / "c.safetensors")[LINEAR])).max() < 1e-13


@pytest.mark.parametrize("weights", [(1e-9, 1e-9), (1e-9, 1.0), (1e-6, -2e-6)])
def test_terms_too_small_for_the_dtype_are_told(tmp_path, weights):
    paths = [saved(tmp_path / f"{name}.safetensors", {LINEAR: pair(SHAPES[LINEAR])}) for name in "ab"]
    done = adapterhub.combine(list(zip(paths, weights, strict=True)), tmp_path / "c.safetensors", dtype="fp16")
    assert (done.exactness, [problem.code for problem in done.problems]) == ("approximate", ["underflow"])
    wider = adapterhub.combine(list(zip(paths, weights, strict=True)), tmp_path / "d.safetensors", dtype="bf16")
    assert wider.problems == []


@pytest.mark.parametrize("weights", [(0.7, -0.3), (2.0**-8, 1.0), (0.0, 1.0)])
def test_terms_that_are_only_rounded_are_not(tmp_path, weights):
    paths = [saved(tmp_path / f"{name}.safetensors", {LINEAR: pair(SHAPES[LINEAR])}) for name in "ab"]
    done = adapterhub.combine(list(zip(paths, weights, strict=True)), tmp_path / "c.safetensors", dtype="fp16")
    assert done.problems == []


def test_an_alpha_that_would_become_zero_is_refused(tmp_path):
    source = saved(tmp_path / "a.safetensors", {LINEAR: pair(SHAPES[LINEAR]) | {"alpha": np.float32(1e-9)}})
    for write in (
        lambda target: adapterhub.convert(source, target, to="kohya", dtype="fp16"),
        lambda target: adapterhub.combine([(source, 0.5)], target, dtype="fp16"),
    ):
        with pytest.raises(RefusedInput, match="does not hold"):
            write(tmp_path / "b.safetensors")
        assert not (tmp_path / "b.safetensors").exists()
    assert adapterhub.convert(source, tmp_path / "b.safetensors", to="kohya", dtype="bf16").problems == []


@pytest.mark.parametrize("count", [1, 2])
def test_full_differences_that_become_zero_in_the_dtype_are_told(tmp_path, count):
    value = RANDOM.standard_normal(SHAPES[LINEAR]).astype("f4")
    made = {LINEAR: {"diff": value}, TEXT: pair((768, 768))}
    paths = [saved(tmp_path / f"{name}.safetensors", made) for name in "ab"[:count]]
    done = adapterhub.combine([(path, 1e-7) for path in paths], tmp_path / "c.safetensors", dtype="bf16")
    assert done.problems == []
    source = saved(tmp_path / "d.safetensors", {LINEAR: {"diff": value * np.float32(1e-9)}, TEXT: pair((768, 768))})
    done = adapterhub.combine([(source, 1.0)] * count, tmp_path / "c.safetensors", dtype="fp16", force=True)
    (told,) = done.problems
    assert (told.code, told.where, told.mend) == ("underflow", f"unet.{LINEAR}", "Give --dtype fp32 or bf16.")
    assert told.message == "1 modules became zero: their numbers are too small for their dtype"
