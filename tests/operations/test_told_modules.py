"""What is said of one module among many: which it is, what its strength of 0 means to every reader, what is no rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adapterhub
from adapterhub.errors import BrokenAdapter, NeedsBase
from tests.conftest import Outcome
from tests.operations import merge_files
from tests.operations.made_loras import CONV, LINEAR, POINT, SHAPES, Arrays, full, loha, lora, read, saved

BROKEN = {POINT: lora(SHAPES[POINT]), LINEAR: {**loha(SHAPES[LINEAR]), "hada_w1_a": np.full((320, 2), np.nan, "f4")}}


@pytest.mark.parametrize("command", [
    ["resize", "{}", "--rank", "1"], ["resize", "{}", "--size", "0.02"], ["combine", "{}", "--rank", "1"],
    ["convert", "{}", "--to", "kohya", "--as", "lora", "--rank", "1"],
])  # fmt: skip
def test_a_module_that_has_no_approximation_is_named_once(tmp_path: Path, cli, command: list[str]) -> None:
    path = saved(tmp_path / "a.safetensors", BROKEN)
    done: Outcome = cli(*(word.format(path) for word in command), "-o", tmp_path / "b.safetensors")
    assert (done.status, done.err.count(f"unet.{LINEAR}"), "not finite" in done.err) == (3, 1, True)
    assert not (tmp_path / "b.safetensors").exists()


def test_a_module_that_needs_the_base_is_named(tmp_path: Path) -> None:
    rotation: Arrays = {"oft_blocks": np.zeros((40, 8, 8), "f4"), "alpha": np.float32(0)}
    path = saved(tmp_path / "a.safetensors", {POINT: lora(SHAPES[POINT]), LINEAR: rotation})
    with pytest.raises(NeedsBase, match=r"attn2\.to_k: the change that oft makes"):
        adapterhub.convert(path, tmp_path / "b.safetensors", to="kohya", as_algorithm="lora", rank=2)


def test_a_module_that_does_not_fit_the_base_is_named(tmp_path: Path) -> None:
    rotation: Arrays = {"oft_blocks": np.zeros((2, 3, 4, 4), "f4"), "alpha": np.float32(0)}
    base = merge_files.base(tmp_path / "base.safetensors")
    for made, name in (
        (rotation, "lora"),
        (rotation, "full"),
        (loha(SHAPES[LINEAR]), "lora"),
        (lora(SHAPES[LINEAR]), "full"),
    ):
        path = saved(tmp_path / "a.safetensors", {LINEAR: made})
        with pytest.raises(BrokenAdapter, match=r"attn2\.to_k: the shapes of a module do not fit"):
            adapterhub.convert(
                path,
                tmp_path / "b.safetensors",
                to="kohya",
                as_algorithm=name,
                base=base,
                rank=2 if name == "lora" else None,
            )


def test_a_factor_of_0_leaves_no_alpha_of_0_which_trainers_take_for_the_rank(tmp_path: Path) -> None:
    """kohya-ss/sd-scripts `networks/lora.py`, LoRAModule: `alpha = self.lora_dim if alpha is None or alpha == 0 else alpha`."""
    path = saved(tmp_path / "a.safetensors", {LINEAR: lora(SHAPES[LINEAR]), POINT: full(SHAPES[POINT])})
    for made in (adapterhub.scale(path, tmp_path / "b.safetensors", 0.0),
                 adapterhub.combine([(path, 0.0)], tmp_path / "c.safetensors")):  # fmt: skip
        found = read(Path(made.target.path))
        assert (made.exactness, made.max_error) == ("bit-exact", 0)
        assert found[LINEAR]["alpha"] == 2
        assert not found[LINEAR]["lora_up.weight"].any() or not found[LINEAR]["lora_down.weight"].any()
        assert not found[POINT]["diff"].any()


def test_what_is_no_number_is_not_called_exact(tmp_path: Path) -> None:
    done = adapterhub.convert(saved(tmp_path / "a.safetensors", BROKEN), tmp_path / "b.safetensors", to="kohya",
                              as_algorithm="lora")  # fmt: skip
    assert (done.exactness, [problem.code for problem in done.problems]) == ("approximate", ["not-finite"])


def test_a_file_is_named_without_an_empty_place_behind_it(tmp_path: Path) -> None:
    only = {CONV: lora(SHAPES[CONV])}
    paths = [saved(tmp_path / name, only) for name in ("a.safetensors", "b.safetensors")]
    done = adapterhub.combine(paths, tmp_path / "c.safetensors")
    assert [problem.where for problem in done.problems] == list(map(str, paths))


def test_values_that_are_not_finite_are_refused_with_the_module(tmp_path: Path) -> None:
    with pytest.raises(BrokenAdapter, match=LINEAR):
        adapterhub.resize(saved(tmp_path / "a.safetensors", BROKEN), tmp_path / "b.safetensors", rank=1)


@pytest.mark.parametrize("options", [{}, {"rank": 1}, {"rank": 1, "method": "ties"}])
def test_biases_of_different_lengths_have_no_sum(tmp_path: Path, options: dict[str, Any]) -> None:
    paths = [saved(tmp_path / f"{n}.safetensors", {LINEAR: {**lora(SHAPES[LINEAR]), "diff_b": np.ones(n, "f4")}})
             for n in (6, 320)]  # fmt: skip
    with pytest.raises(BrokenAdapter) as refused:
        adapterhub.combine(paths, tmp_path / "c.safetensors", **options)
    assert refused.value.places == (f"unet.{LINEAR}: biases of different lengths, 6 and 320",)


def test_what_is_given_twice_or_not_at_all_is_told_as_that(tmp_path: Path, cli) -> None:
    path, out = saved(tmp_path / "a.safetensors", {LINEAR: lora(SHAPES[LINEAR])}), tmp_path / "b.safetensors"
    said = {
        ("resize", path, "--rank", 1, "--tolerance", 0.1): "--rank and --tolerance say twice how small it is to be",
        ("resize", path): "say how small it is to be",
        ("convert", path, "--to", "kohya", "--for", "a1111"): "--to and --for both say what to convert to",
        ("convert", path): "say what to convert to",
        ("combine", f"{path}:0.5:0.2"): "one weight, for UNet and text encoders alike; scale --te makes them differ",
    }
    for command, message in said.items():
        done = cli(*command, "-o", out)
        assert (done.status, message in done.err, out.exists()) == (2, True, False), done.err


def test_another_algorithm_is_written_in_the_layout_that_there_is(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", {LINEAR: loha(SHAPES[LINEAR])})
    done = adapterhub.convert(path, tmp_path / "b.safetensors", as_algorithm="lora")
    assert (done.target.layout, done.exactness) == ("kohya", "exact")
    assert adapterhub.inspect(tmp_path / "b.safetensors").algorithms == {"lora": 1}


@pytest.mark.parametrize("shape", [(160, 4, 2), (320, 4, 3, 3)])
def test_a_second_matrix_with_a_kernel_is_refused(tmp_path: Path, cli, shape: tuple[int, ...]) -> None:
    path = saved(tmp_path / "a.safetensors", {LINEAR: {**lora(SHAPES[LINEAR]), "lora_up.weight": np.ones(shape, "f4")}})
    for command in (["convert", "--to", "kohya"], ["scale", 0.5]):
        done = cli(command[0], path, *command[1:], "-o", tmp_path / "b.safetensors")
        assert (done.status, f"{LINEAR}: lora_up is F32 {list(shape)}, which no lora_up is" in done.err) == (3, True)
