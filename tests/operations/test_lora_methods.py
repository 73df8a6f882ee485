"""TIES and DARE by their papers' definitions in numpy, on the changes of whole adapters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import adapterhub
from adapterhub.operations.lora import thresholds
from tests.operations.made_loras import LINEAR, SHAPES, change, changes, lora, off, read, saved

WEIGHTS = (0.7, -0.4)


def pair(folder, a, b):
    return [(saved(folder / "a.safetensors", a), WEIGHTS[0]), (saved(folder / "b.safetensors", b), WEIGHTS[1])]


def ties(vectors, density):
    """Yadav et al., 2023, algorithm 1, in numpy, on whole task vectors: trim, elect, disjoint mean."""
    kept = round(density * vectors[0].size)
    trimmed = [np.where(np.abs(v) >= np.sort(np.abs(v))[-kept], v, 0) for v in vectors]
    sign = np.sign(sum(trimmed))
    total = sum(np.where(np.sign(t) == sign, t, 0) for t in trimmed)
    return total / np.maximum(sum((np.sign(t) == sign) & (t != 0) for t in trimmed), 1)


@pytest.mark.parametrize("at_once", [1 << 20, 100])
@pytest.mark.parametrize("density", [None, 0.5])
def test_ties_trims_elects_and_takes_disjoint_means_of_all_that_an_adapter_changes(
    tmp_path, density, at_once, monkeypatch
):
    monkeypatch.setattr(thresholds, "_AT_ONCE", at_once)
    modules = list(SHAPES)[:2]
    a, b = ({module: lora(SHAPES[module]) for module in modules} for _ in range(2))
    b[modules[0]] = {
        role: 0.1 * array for role, array in b[modules[0]].items()
    }  # of which less stays than of the other
    done = adapterhub.combine(
        pair(tmp_path, a, b), tmp_path / "c.safetensors", method="ties", density=density, rank=320, dtype="fp32"
    )
    vectors = [
        np.concatenate([weight * change(held[module]).ravel() for module in modules])
        for weight, held in zip(WEIGHTS, (a, b), strict=True)
    ]
    made = changes(tmp_path / "c.safetensors")
    assert off(np.concatenate([made[module].ravel() for module in modules]), ties(vectors, density or 0.2)) < 1e-6
    assert max(told.error for told in done.approximations) < 1e-6


@given(
    st.lists(st.lists(st.floats(width=64, allow_nan=False, allow_infinity=False), min_size=1), min_size=1, max_size=5),
    st.floats(0, 1),
    st.sampled_from([0, 1, 3, 1 << 20]),
)
def test_a_threshold_is_the_kth_largest_magnitude_however_it_is_counted(parts, share, at_once):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(thresholds, "_AT_ONCE", at_once)
        found = thresholds.threshold(lambda: [torch.tensor(part, dtype=torch.float64) for part in parts], share)
    every = sorted((abs(number) for part in parts for number in part), reverse=True)
    assert found == every[max(1, round(share * len(every))) - 1]


def test_dare_drops_and_rescales_so_that_the_sum_is_the_same_on_average(tmp_path):
    a = {LINEAR: lora(SHAPES[LINEAR])}
    source = saved(tmp_path / "a.safetensors", a)
    made = [tmp_path / f"{seed}.safetensors" for seed in (0, 1, 0)]
    for path, seed in zip(made, (0, 1, 0), strict=True):
        adapterhub.combine(
            [(source, 2.0)], path, method="dare", density=0.25, seed=seed, rank=320, dtype="fp32", force=True
        )
    first, other, _ = (changes(path)[LINEAR] for path in made)
    whole = 2 * change(a[LINEAR])
    kept = np.abs(first) > 1e-4 * np.abs(whole).max()
    assert kept.mean() == pytest.approx(0.25, abs=0.01)
    assert np.abs(first - np.where(kept, 4 * whole, 0)).max() < 1e-3 * np.abs(whole).max()
    assert first.sum() == pytest.approx(whole.sum(), abs=5 * 2 * np.linalg.norm(whole))
    assert (kept & (np.abs(other) > 1e-4 * np.abs(whole).max())).mean() == pytest.approx(0.0625, abs=0.01)


def test_dare_is_the_same_again_from_the_same_seed(tmp_path):
    source = saved(tmp_path / "a.safetensors", {LINEAR: lora(SHAPES[LINEAR])})
    for name in "bc":
        adapterhub.combine([source], tmp_path / f"{name}.safetensors", method="dare", density=0.5, seed=7, rank=4)
    first, second = (read(tmp_path / f"{name}.safetensors")[LINEAR] for name in "bc")
    assert {name: array.tobytes() for name, array in first.items()} == {
        name: array.tobytes() for name, array in second.items()
    }
