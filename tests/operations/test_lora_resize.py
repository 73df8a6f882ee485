"""resize: as good as a singular value decomposition of all of ΔW, and no larger than it has to be."""

from __future__ import annotations

import json

import numpy as np
import pytest

import adapterhub
from adapterhub.errors import BrokenAdapter, OutputExists, UsageError
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
    lora,
    normal,
    off,
    read,
    saved,
    tail,
)


def falling(shape, sizes, dtype="f4"):
    """A LoRA whose singular values are `sizes`."""
    rows, columns, *kernel = shape
    up, down = (
        np.linalg.qr(normal(n, len(sizes), dtype="f8"))[0] for n in (rows, columns * int(np.prod(kernel, dtype=int)))
    )
    return {"lora_up.weight": (up * sizes).astype(dtype).reshape(rows, len(sizes), *(1 for _ in kernel)),
            "lora_down.weight": np.ascontiguousarray(down.T.astype(dtype)).reshape(len(sizes), columns, *kernel),
            "alpha": np.array(len(sizes), dtype)}  # fmt: skip


def resized(folder, made, **arguments):
    target = folder / "b.safetensors"
    done = adapterhub.resize(saved(folder / "a.safetensors", made), target, **arguments)
    return done, read(target)


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("rank", [1, 2])
def test_the_error_is_the_tail_of_the_singular_values(tmp_path, name, rank):
    made = {CONV: {key: array.astype("f8") for key, array in PRODUCTS[name](SHAPES[CONV]).items()}}
    done, found = resized(tmp_path, made, rank=rank)  # float64 as the source: nothing is rounded
    expected = change(made[CONV])
    (told,) = done.approximations
    assert found[CONV]["lora_down.weight"].shape == (rank, 320, 3, 3)
    assert told.error == pytest.approx(tail(expected, rank), abs=1e-10)
    assert told.error == pytest.approx(off(change(found[CONV]), expected), abs=1e-12)
    assert told.captured == pytest.approx(1 - tail(expected, rank) ** 2, abs=1e-10)
    assert (told.module, told.rank, done.exactness) == (f"unet.{CONV}", rank, "approximate")


def test_the_error_over_all_modules_is_that_of_all_numbers_together(tmp_path):
    made = {LINEAR: lora(SHAPES[LINEAR], alpha=20.0), CONV: lora(SHAPES[CONV]), TEXT: lora((768, 768), rank=2)}
    done, found = resized(tmp_path, made, rank=2)
    before = np.concatenate([change(held).ravel() for held in made.values()])
    after = np.concatenate([change(found[module]).ravel() for module in made])
    assert done.relative_error == pytest.approx(off(after, before), rel=1e-9)
    assert [told.module for told in done.approximations] == [f"unet.{LINEAR}", f"unet.{CONV}"]


def test_mixed_ranks_are_cut_where_they_are_larger_and_the_rest_stays_bit_for_bit(tmp_path):
    made = {LINEAR: lora(SHAPES[LINEAR], rank=8, dtype="f2"), POINT: lora(SHAPES[POINT], rank=4, alpha=None, dtype="f2"),
            CONV: lora(SHAPES[CONV], rank=5, dtype="f2")}  # fmt: skip
    done, found = resized(tmp_path, made, rank=4)
    assert [found[module]["lora_down.weight"].shape[0] for module in made] == [4, 4, 4]
    assert {name: array.tobytes() for name, array in found[POINT].items()} == {
        name: array.tobytes() for name, array in made[POINT].items()
    }
    assert {array.dtype for name, array in found[CONV].items() if name != "alpha"} == {np.dtype("f2")}
    assert (done.summary["copy"], done.summary["compute"]) == (2, 6)


@pytest.mark.parametrize("tolerance", [0.5, 0.1, 0.011])
def test_ranks_by_tolerance_are_the_smallest(tmp_path, tolerance):
    sizes = 2.0 ** -np.arange(8)
    made = {LINEAR: falling(SHAPES[LINEAR], sizes), TEXT: falling((768, 768), np.sqrt(sizes))}
    done, found = resized(tmp_path, made, tolerance=tolerance)
    for module, own in ((LINEAR, sizes), (TEXT, np.sqrt(sizes))):
        left = [np.linalg.norm(own[rank:]) / np.linalg.norm(own) for rank in range(9)]
        assert len(found[module]["lora_down.weight"]) == next(rank for rank in range(1, 9) if left[rank] <= tolerance)
    assert all(told.error <= tolerance for told in done.approximations)


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.9999])
def test_ranks_by_energy_keep_that_share_of_the_squared_norm(tmp_path, energy):
    sizes = 2.0 ** -np.arange(8)
    done, found = resized(tmp_path, {LINEAR: falling(SHAPES[LINEAR], sizes)}, energy=energy)
    shares = np.cumsum(sizes**2) / np.sum(sizes**2)
    assert len(found[LINEAR]["lora_down.weight"]) == 1 + np.argmax(shares >= energy)
    assert done.approximations[0].captured >= energy


def test_a_size_is_kept_to_and_spent_where_a_byte_keeps_the_most(tmp_path):
    strong, weak = np.array([9.0, 8, 7, 6, 5, 4, 3, 2]), np.array([1.0, 0.5, 0.4, 0.3])
    made = {LINEAR: falling(SHAPES[LINEAR], strong), TEXT: falling((768, 768), weak)}
    room = 0.0235
    _, found = resized(tmp_path, made, size=room)
    assert room * 1e6 * 0.8 < (tmp_path / "b.safetensors").stat().st_size <= room * 1e6
    assert [len(found[module]["lora_down.weight"]) for module in made] == [3, 1]
    with pytest.raises(UsageError, match="even at rank 1"):
        adapterhub.resize(tmp_path / "a.safetensors", tmp_path / "c.safetensors", size=0.005)


def test_rounding_that_leaves_more_than_the_tolerance_is_told(tmp_path):
    source = saved(tmp_path / "a.safetensors", {LINEAR: falling(SHAPES[LINEAR], np.array([1, 1, 1, 5e-5]))})
    for dtype, codes in (("fp32", []), ("bf16", ["tolerance-missed"])):
        done = adapterhub.resize(source, tmp_path / f"{dtype}.safetensors", tolerance=1e-4, dtype=dtype)
        assert ([problem.code for problem in done.problems], done.approximations[0].rank) == (codes, 3)


def test_a_rank_that_nothing_exceeds_changes_nothing(tmp_path):
    made = {LINEAR: lora(SHAPES[LINEAR]), CONV: lora(SHAPES[CONV])}
    done, found = resized(tmp_path, made, rank=4)
    assert (done.exactness, done.max_error, done.approximations, done.relative_error) == ("bit-exact", 0.0, [], None)
    assert all(
        array.tobytes() == made[module][name].tobytes() for module in made for name, array in found[module].items()
    )


def test_what_is_no_product_stays_and_is_told(tmp_path):
    made = {LINEAR: lora(SHAPES[LINEAR], rank=8), CONV: {**ADDITIVE["full"](SHAPES[CONV]), "diff_b": normal(320)},
            TEXT: {**lora((768, 768), rank=8), "dora_scale": np.ones((768, 1), "f4")}}  # fmt: skip
    done, found = resized(tmp_path, made, rank=2)
    assert sorted(problem.where for problem in done.problems if problem.code == "not-resized") == sorted(
        [f"unet.{CONV}", f"text_encoder.{TEXT}"]
    )
    assert all(
        array.tobytes() == made[module][name].tobytes()
        for module in (CONV, TEXT)
        for name, array in found[module].items()
    )
    assert len(found[LINEAR]["lora_down.weight"]) == 2


def test_a_bias_stays_beside_its_module(tmp_path):
    bias = normal(320)
    done, found = resized(tmp_path, {CONV: {**lora(SHAPES[CONV]), "diff_b": bias}}, rank=1)
    assert found[CONV]["diff_b"].tobytes() == bias.tobytes()
    assert done.summary["drop"] == 0


def test_a_change_of_nothing_becomes_rank_one(tmp_path):
    made = {LINEAR: {**lora(SHAPES[LINEAR]), "lora_up.weight": np.zeros((320, 4), "f4")}}
    done, found = resized(tmp_path, made, tolerance=0.1)
    assert (found[LINEAR]["lora_down.weight"].shape, done.approximations[0].error) == ((1, 768), 0.0)


def test_the_best_of_a_lora_is_not_clamped(tmp_path):
    sizes = np.array([1000.0, 1, 0.9, 0.8])  # a quantile of the numbers would cut the largest off
    _, found = resized(tmp_path, {LINEAR: falling(SHAPES[LINEAR], sizes)}, rank=1)
    assert np.linalg.norm(change(found[LINEAR])) == pytest.approx(1000, rel=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"rank": 1, "energy": 0.5},
        {"size": 0.0},
        {"energy": 1.5},
        {"tolerance": -0.1},
        {"rank": 0},
        {"size": float("nan")},
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, arguments):
    source = saved(tmp_path / "a.safetensors", {LINEAR: lora(SHAPES[LINEAR])})
    with pytest.raises(UsageError):
        adapterhub.resize(source, tmp_path / "b.safetensors", **arguments)


def test_values_that_are_no_numbers_are_refused_and_nothing_is_left(tmp_path):
    made = {LINEAR: lora(SHAPES[LINEAR])}
    made[LINEAR]["lora_up.weight"][3, 1] = np.inf
    with pytest.raises(BrokenAdapter, match="not finite"):
        resized(tmp_path, made, rank=2)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_dry_run_foretells_what_it_costs(tmp_path, capsys):
    from adapterhub.cli import run

    source, target = saved(tmp_path / "a.safetensors", {LINEAR: lora(SHAPES[LINEAR])}), tmp_path / "b.safetensors"
    assert run(["resize", str(source), "-o", str(target), "--rank", "2", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert not target.exists()
    assert run(["resize", str(source), "-o", str(target), "--rank", "2", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert told["approximations"][0]["error"] == pytest.approx(done["approximations"][0]["error"], abs=1e-6)
    assert run(["resize", str(source), "-o", str(target), "--rank", "2"]) == 2
    with pytest.raises(OutputExists):
        adapterhub.resize(source, target, rank=2)


def test_into_another_layout(tmp_path):
    made = {LINEAR: lora(SHAPES[LINEAR], rank=8), CONV: lora(SHAPES[CONV], rank=8)}
    source = saved(tmp_path / "a.safetensors", made)
    done = adapterhub.resize(source, tmp_path / "b.peft", rank=3, to="peft")
    adapterhub.convert(tmp_path / "b.peft", tmp_path / "c.safetensors", to="kohya")
    for told, (module, held) in zip(done.approximations, made.items(), strict=True):
        assert off(changes(tmp_path / "c.safetensors")[module], change(held)) == pytest.approx(
            tail(change(held), 3), abs=1e-6
        )
        assert told.error == pytest.approx(tail(change(held), 3), abs=1e-6)
