"""`convert --as lora --rank`: what the lower rank costs each module is told, measured against the singular values of ΔW."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import adapterhub
from tests.operations.made_loras import LINEAR, POINT, SHAPES, change, loha, lora, saved, tail

RANK = 2


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A LoHa of rank 4 and a LoRA of rank 1, and the ΔW of both."""
    modules = {LINEAR: loha(SHAPES[LINEAR]), POINT: lora(SHAPES[POINT], rank=1)}
    whole = {name: change(held) for name, held in modules.items()}
    return saved(tmp_path / "a.safetensors", modules), {
        name: matrix.reshape(len(matrix), -1) for name, matrix in whole.items()
    }


@pytest.mark.parametrize("dry_run", [False, True])
def test_every_truncated_module_tells_its_error(
    tmp_path: Path, mixed: tuple[Path, dict[str, np.ndarray]], dry_run: bool
) -> None:
    path, matrices = mixed
    done = adapterhub.convert(
        path, tmp_path / "out.safetensors", to="kohya", as_algorithm="lora", rank=RANK, dry_run=dry_run
    )
    (told,) = done.approximations
    sizes = np.linalg.svd(matrices[LINEAR], compute_uv=False)
    left = math.sqrt(float((sizes[RANK:] ** 2).sum()))
    error = left / float(np.linalg.norm(matrices[LINEAR]))
    assert (told.module, told.rank) == (f"unet.{LINEAR}", RANK)
    assert told.error == pytest.approx(error, rel=1e-5)
    assert told.captured == pytest.approx(1 - error**2, rel=1e-5)
    whole = math.sqrt(sum(float(np.linalg.norm(matrix)) ** 2 for matrix in matrices.values()))
    assert done.relative_error == (None if dry_run else pytest.approx(left / whole, rel=1e-5))


def test_without_a_check_errors_are_as_foretold(tmp_path: Path, mixed: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, matrices = mixed
    done = adapterhub.convert(
        path, tmp_path / "out.safetensors", to="kohya", as_algorithm="lora", rank=RANK, check=False
    )
    assert [told.error for told in done.approximations] == [pytest.approx(tail(matrices[LINEAR], RANK), rel=1e-5)]
    assert done.relative_error is None


def test_what_is_exact_tells_no_approximations(tmp_path: Path, mixed: tuple[Path, dict[str, np.ndarray]]) -> None:
    done = adapterhub.convert(mixed[0], tmp_path / "out.safetensors", to="kohya", as_algorithm="lora")
    assert (done.approximations, done.relative_error, done.exactness) == ([], None, "exact")


def test_people_see_the_worst(
    tmp_path: Path, mixed: tuple[Path, dict[str, np.ndarray]], cli: Callable[..., object]
) -> None:
    out = tmp_path / "out.safetensors"
    done = cli("convert", mixed[0], "-o", out, "--to", "kohya", "--as", "lora", "--rank", RANK)
    assert "\n1 modules approximated, relative error " in done.out
    assert f"\n  unet.{LINEAR} " in done.out
