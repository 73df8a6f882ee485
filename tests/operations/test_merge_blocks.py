"""Factors by block: the vectors of LoRA Block Weight name LDM's blocks, a TOML of patterns names canonical paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapterhub import merge
from adapterhub.adapter import Module
from adapterhub.errors import RefusedInput, UnknownName, UsageError
from adapterhub.operations.merge.blocks import block_of, blocks
from tests.operations.merge_files import base, lora

UP = "up_blocks.{}.attentions.{}.transformer_blocks.0.attn1.to_q"
DOWN = "down_blocks.{}.attentions.{}.transformer_blocks.0.attn1.to_q"
MID = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("architecture", "path", "block"),
    [
        ("sd1", DOWN.format(0, 0), "IN01"), ("sd1", DOWN.format(0, 1), "IN02"), ("sd1", "down_blocks.0.downsamplers.0.conv", "IN03"),
        ("sd1", DOWN.format(1, 0), "IN04"), ("sd1", DOWN.format(2, 1), "IN08"), ("sd1", "down_blocks.3.resnets.1.conv1", "IN11"),
        ("sd1", "conv_in", "IN00"), ("sd1", MID, "M00"), ("sd1", "up_blocks.0.resnets.0.conv1", "OUT00"),
        ("sd1", UP.format(1, 0), "OUT03"), ("sd1", UP.format(3, 2), "OUT11"), ("sd1", "time_embedding.linear_1", None),
        ("sdxl", DOWN.format(1, 0), "IN04"), ("sdxl", DOWN.format(1, 1), "IN05"), ("sdxl", DOWN.format(2, 0), "IN07"),
        ("sdxl", DOWN.format(2, 1), "IN08"), ("sdxl", MID, "M00"), ("sdxl", UP.format(0, 0), "OUT00"),
        ("sdxl", UP.format(1, 2), "OUT05"), ("sdxl", "conv_out", None),
    ],
)  # fmt: skip
def test_a_module_lies_in_the_block_that_the_extension_calls_so(
    architecture: str, path: str, block: str | None
) -> None:
    assert block_of(Module("unet", path), architecture) == block


def test_a_vector_gives_each_block_its_own_and_the_rest_0_or_1() -> None:
    twelve = blocks(",".join(str(number / 10) for number in range(12)), "sdxl")
    found = {
        path: twelve.factor(Module("unet", path))
        for path in (DOWN.format(1, 0), MID, UP.format(1, 2), "conv_in", "conv_out")
    }
    assert list(found.values()) == [0.1, 0.5, 1.1, 0.0, 1.0]
    assert twelve.factor(Module("text_encoder_2", "text_model.encoder.layers.0.mlp.fc1")) == 0.0
    twenty = blocks(",".join(str(number) for number in range(20)), "sdxl")
    assert [twenty.factor(Module("unet", path)) for path in ("conv_in", MID, UP.format(1, 2))] == [1.0, 10.0, 16.0]


def several(kind: str, numbers: str) -> list[str]:
    return [f"{kind}{int(number):02}" for number in numbers.split()]


ORDERS = {
    ("sd1", 17): ["BASE", *several("IN", "1 2 4 5 7 8"), "M00", *several("OUT", "3 4 5 6 7 8 9 10 11")],
    ("sd1", 26): [
        "BASE",
        *several("IN", "0 1 2 3 4 5 6 7 8 9 10 11"),
        "M00",
        *several("OUT", "0 1 2 3 4 5 6 7 8 9 10 11"),
    ],
    ("sdxl", 12): ["BASE", *several("IN", "4 5 7 8"), "M00", *several("OUT", "0 1 2 3 4 5")],
    ("sdxl", 20): ["BASE", *several("IN", "0 1 2 3 4 5 6 7 8"), "M00", *several("OUT", "0 1 2 3 4 5 6 7 8")],
}
"""BLOCKID17, 26, 12 and 20 of the extension: each number of a vector is for the block at its place."""


@pytest.mark.parametrize(("architecture", "count"), ORDERS)
def test_every_number_of_a_vector_is_for_the_block_at_its_place(architecture: str, count: int) -> None:
    names = ORDERS[architecture, count]
    assert len(names) == count
    found = blocks(",".join(str(number / 8) for number in range(count)), architecture)
    assert found.by_block == {name: number / 8 for number, name in enumerate(names)}


PRESETS = {
    "NONE": "", "ALL": "BASE IN MID OUT", "INS": "BASE IN01 IN02 IN04", "IND": "BASE IN05 IN07 IN08", "INALL": "BASE IN",
    "MIDD": "BASE IN05 IN07 IN08 MID OUT03 OUT04 OUT05 OUT06", "OUTD": "BASE OUT03 OUT04 OUT05 OUT06",
    "OUTS": "BASE OUT07 OUT08 OUT09 OUT10 OUT11", "OUTALL": "BASE OUT",
}  # fmt: skip
"""DEF_WEIGHT_PRESET of the extension, as the blocks that have 1; IN and OUT stand for all of a side."""


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_what_the_extension_has_under_that_name(name: str) -> None:
    wanted = tuple(PRESETS[name].replace("MID", "M00").split())
    order = ORDERS["sd1", 17]
    assert blocks(name, "sd1").by_block == {
        block: float(block.startswith(wanted)) if wanted else 0.0 for block in order
    }
    assert set(blocks("ALL0.5", "sd1").by_block.values()) == {0.5}


@pytest.mark.parametrize("architecture", ["sd1", "sd2", "sdxl"])
def test_the_preset_all_is_one_wherever_loras_are_trained(architecture: str) -> None:
    found = blocks("ALL", architecture)
    paths = (DOWN.format(1, 0), MID, UP.format(1, 0))
    assert [found.factor(Module("unet", path)) for path in paths] == [1.0, 1.0, 1.0]


def test_of_patterns_the_last_that_fits_counts(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_text('"unet.*" = 0.5\n"*.attn2.*" = -2\n"text_encoder.*" = 0\n')
    found = blocks(str(path), "sd1")
    assert found.factor(Module("unet", MID)) == 0.5
    assert found.factor(Module("unet", MID.replace("attn1", "attn2"))) == -2
    assert found.factor(Module("text_encoder", "text_model.final_layer_norm")) == 0
    assert found.factor(Module("text_encoder_2", "text_model.final_layer_norm")) == 1


@pytest.mark.parametrize("text", [b"x", b'"a" = "b"', b'"a" = true', b'["a"]\nb = 1', b"\xff"])
def test_a_file_without_numbers_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "f.toml").write_bytes(text)
    with pytest.raises(RefusedInput, match=r"no TOML|has no number"):
        blocks(str(tmp_path / "f.toml"), "sd1")


@pytest.mark.parametrize(
    ("given", "architecture", "error"),
    [
        ("1,1", "sd1", UsageError), ("INS", "sdxl", UnknownName), ("ALL", "sdxl-refiner", UsageError),
        ("1,e", "sd1", UsageError), (",".join(["1e999"] * 17), "sd1", UsageError), (",".join(["--1"] * 17), "sd1", UsageError),
    ],
)  # fmt: skip
def test_what_is_no_vector_is_refused(given: str, architecture: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        blocks(given, architecture)


def test_a_pattern_that_fits_nothing_is_told(tmp_path: Path) -> None:
    model, adapter, factors = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors"), tmp_path / "f.toml"
    factors.write_text('"unet.*attn1*" = 0.5\n"unet.atn2*" = 0.5\n')
    done = merge(model, [adapter], tmp_path / "out.safetensors", architecture="sd1", blocks=str(factors), include=["unet.*", "Unet.*"],
                 exclude=["*.nothing", "*conv1"])  # fmt: skip
    told = [problem.where for problem in done.problems if problem.code == "pattern-fits-nothing"]
    assert told == ["Unet.*", "*.nothing", "unet.atn2*"]
