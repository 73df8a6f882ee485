"""What stands beside the weights of two models: which of it is a difference, and what is told without counting."""

from __future__ import annotations

import numpy as np
import pytest

import adapterhub
from tests.operations.checkpoint_files import (
    FOREIGN,
    MARKERS,
    averages,
    positions,
    saved,
    schedule,
    unused_text,
    weights,
)

SD2 = weights("sd2")
BESIDE = {**averages(SD2), **schedule(), **positions("sd2"), **unused_text("sd2"), **MARKERS, **FOREIGN}
WHOLE = SD2 | BESIDE
FIRST, SECOND = FOREIGN
BLOCK = "cond_stage_model.model.transformer.resblocks.23.ln_1.bias"


def compared(tmp_path, other):
    a, b = (saved(tmp_path / f"{name}.safetensors", tensors) for name, tensors in (("a", WHOLE), ("b", other)))
    return adapterhub.diff(a, b)


CHANGED = [
    ("v_pred", np.ones(1, "f4"), "marker", True), (FIRST, np.float16([1, 2, 4]), "foreign", True),
    (SECOND, np.uint8([5]), "foreign", True), ("betas", BESIDE["betas"] * 2, "schedule", False),
    (next(iter(positions("sd2"))), np.zeros((1, 77), "i8"), "position-ids", False),
    ("model_ema.decay", np.float32([0.5]), "ema", False), (BLOCK, -BESIDE[BLOCK], "unused-text", False),
]  # fmt: skip


@pytest.mark.parametrize(("name", "tensor", "extra", "counts"), CHANGED, ids=[case[0] for case in CHANGED])
def test_other_bits_are_told_and_count_where_images_may_depend_on_them(name, tensor, extra, counts, tmp_path):
    found = compared(tmp_path, WHOLE | {name: tensor})
    assert [one.model_dump() for one in found.beside] == [
        {"name": name, "extra": extra, "fate": "changed", "counts": counts}
    ]
    assert (found.equal, found.max_error) == (not counts, 0.0)


def test_a_marker_that_one_lacks_is_a_difference_and_the_rest_is_told(tmp_path):
    found = compared(tmp_path, SD2 | {"ztsnr": MARKERS["ztsnr"], "edm_std": np.ones(1, "f4")})
    assert {one.name for one in found.beside if one.fate == "only_in_a"} == BESIDE.keys() - {"ztsnr"}
    assert {(one.name, one.fate) for one in found.beside if one.counts} == {
        ("v_pred", "only_in_a"), ("edm_std", "only_in_b"),
    }  # fmt: skip
    assert not found.equal


def test_a_model_that_went_through_a_folder_has_everything_beside_it_again(tmp_path):
    source = saved(tmp_path / "a.safetensors", WHOLE)
    adapterhub.convert(source, tmp_path / "folder", to="diffusers")
    adapterhub.convert(tmp_path / "folder", tmp_path / "b.safetensors", to="single-file")
    for other in ("folder", "b.safetensors"):
        found = adapterhub.diff(source, tmp_path / other)
        assert (found.equal, found.beside) == (True, [])


def test_what_makes_the_difference_is_named_and_the_rest_is_counted(cli, tmp_path):
    a = saved(tmp_path / "a.safetensors", WHOLE)
    pruned = SD2 | FOREIGN | schedule() | {"betas": BESIDE["betas"] * 2, FIRST: np.float16([0, 0, 0])}
    done = cli("diff", a, saved(tmp_path / "b.safetensors", pruned))
    assert (done.status, done.err) == (1, "")
    assert [line for line in done.out.splitlines() if "beside" in line] == [
        f"  only beside the weights of {a}: v_pred, ztsnr",
        f"  not compared, beside the weights of {a}: position-ids 1, unused-text 14, ema 688",
        f"  other bits beside the weights of both: {FIRST}",
        "  not counted: other bits beside the weights of both: schedule 1",
    ]
