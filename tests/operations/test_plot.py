"""`plot`: the numbers of a heat map by the formula in float64, and its picture."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import adapterhub
from adapterhub.errors import NotAnAdapter, OutputExists, RefusedInput, UsageError
from tests.operations import made_loras, merge_files
from tests.operations.made_loras import CONV, LINEAR, POINT, SHAPES, TEXT, change, saved

pytest.importorskip("matplotlib")


def cells(heat):
    return {
        (row, column): value
        for row, line in zip(heat.rows, heat.values, strict=True)
        for column, value in zip(heat.columns, line, strict=True)
        if value is not None
    }


def rms(matrix):
    return np.sqrt(np.mean(matrix**2))


def test_without_a_base_a_cell_is_the_root_mean_square_of_the_change(tmp_path):
    modules = {module: made_loras.lora(SHAPES[module]) for module in SHAPES} | {TEXT: made_loras.lora((768, 768))}
    heat = adapterhub.plot(saved(tmp_path / "a.safetensors", modules), tmp_path / "heat.png")
    assert heat.rows == ["IN01", "IN03", "TE1 00"]
    assert heat.columns == ["attn2.to_k", "proj_in", "conv", "self_attn.q_proj"]
    assert heat.measure == "rms"
    assert cells(heat) == pytest.approx({
        ("IN01", "attn2.to_k"): rms(change(modules[LINEAR])), ("IN01", "proj_in"): rms(change(modules[POINT])),
        ("IN03", "conv"): rms(change(modules[CONV])), ("TE1 00", "self_attn.q_proj"): rms(change(modules[TEXT])),
    })  # fmt: skip


def test_modules_of_one_kind_in_one_block_count_together(tmp_path):
    one, two = (f"mid_block.resnets.{number}.conv1" for number in (0, 1))
    modules = {one: made_loras.lora((1280, 1280, 3, 3)), two: made_loras.lora((1280, 1280, 3, 3))}
    heat = adapterhub.plot(saved(tmp_path / "a.safetensors", {LINEAR: made_loras.lora(SHAPES[LINEAR]), **modules}),
                           tmp_path / "heat.png")  # fmt: skip
    both = np.concatenate([change(held) for held in modules.values()])
    assert cells(heat)["M00", "conv1"] == pytest.approx(rms(both))


def test_with_a_base_a_cell_is_the_share_of_the_weight(tmp_path):
    base = merge_files.base(tmp_path / "base.safetensors", torch.float32)
    lora = merge_files.lora(tmp_path / "a.safetensors")
    heat = adapterhub.plot(lora, tmp_path / "heat.png", base=base)
    weight = load_file(base)[merge_files.place("text_encoder", merge_files.TEXT)].double().norm()
    moved = np.linalg.norm(merge_files.change(lora, "text_encoder", merge_files.TEXT))
    assert heat.measure == "relative"
    assert cells(heat)["TE1 03", "self_attn.q_proj"] == pytest.approx(moved / float(weight))


@pytest.mark.parametrize("command", ["plot", "plot a model", "spectrum", "as lora", "diff"])
def test_a_base_of_another_architecture_is_refused(tmp_path, command):
    lora = merge_files.lora(tmp_path / "a.safetensors")
    base, tuned = merge_files.base(tmp_path / "base.safetensors", architecture="sdxl"), tmp_path / "tuned.safetensors"
    with pytest.raises(NotAnAdapter, match=r"the base is a model of Stable Diffusion XL.*, and this is for .* 1"):
        {
            "plot": lambda: adapterhub.plot(lora, tmp_path / "heat.png", base=base),
            "plot a model": lambda: adapterhub.plot(merge_files.base(tuned), tmp_path / "heat.png", base=base),
            "spectrum": lambda: adapterhub.inspect(lora, spectrum=True, base=base),
            "as lora": lambda: adapterhub.convert(
                lora, tmp_path / "b.safetensors", to="kohya", as_algorithm="lora", base=base
            ),
            "diff": lambda: adapterhub.diff(lora, lora, base=base),
        }[command]()
    assert not {path.name for path in tmp_path.iterdir()} & {"heat.png", "b.safetensors"}


def test_of_a_whole_model_what_it_changed_in_its_base_is_drawn(tmp_path):
    base = merge_files.base(tmp_path / "base.safetensors", torch.float32)
    tensors = load_file(base)
    place = merge_files.place("unet", merge_files.CONV)
    tensors[place] *= 1.25
    save_file(tensors, tmp_path / "tuned.safetensors")
    heat = adapterhub.plot(tmp_path / "tuned.safetensors", tmp_path / "heat.png", base=base)
    moved = {cell: value for cell, value in cells(heat).items() if value}
    assert moved.keys() == {("IN01", "conv1")}
    assert moved["IN01", "conv1"] == pytest.approx(0.25, rel=1e-6)
    with pytest.raises(UsageError, match="Add --base"):
        adapterhub.plot(tmp_path / "tuned.safetensors", tmp_path / "other.png")


def test_the_picture_is_a_png_and_grows_with_the_blocks(tmp_path, modules, lora_file):
    sizes = []
    for count in (1, 15):
        target = tmp_path / f"{count}.png"
        adapterhub.plot(lora_file(modules(15) if count == 15 else modules(1)), target)
        with Image.open(target) as picture:
            assert picture.format == "PNG"
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 8
            sizes.append(picture.height)
    assert sizes[1] > sizes[0]


def test_an_existing_picture_is_refused_and_kept(tmp_path, style, cli):
    target = tmp_path / "heat.png"
    target.write_bytes(b"mine")
    with pytest.raises(OutputExists):
        adapterhub.plot(style, target)
    assert target.read_bytes() == b"mine"
    assert cli("plot", style, "-o", target, "--force").status == 0
    assert target.read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["heat.txt", "heat.svg", "heat.safetensors"])
def test_a_name_that_promises_something_else_than_a_png_is_refused(tmp_path, style, name):
    with pytest.raises(UsageError, match="what is drawn is a PNG"):
        adapterhub.plot(style, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_an_input_is_never_drawn_over(style):
    before = style.read_bytes()
    with pytest.raises(UsageError, match="never overwritten"):
        adapterhub.plot(style, style, force=True)
    assert style.read_bytes() == before


def test_nothing_is_written_where_nothing_can_be_measured(tmp_path, request):
    oft = request.config.rootpath / "fixtures/kohya/sd1-oft.safetensors"
    with pytest.raises(RefusedInput, match="depends on the base weights"):
        adapterhub.plot(oft, tmp_path / "heat.png")
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_it_drew(tmp_path, cli, style):
    target = tmp_path / "heat.png"
    done = cli("plot", style, "-o", target, "--json")
    assert json.loads(done.out)["target"] == str(target)
    assert f"to         {target}\nshows      ‖ΔW‖ / √elements" in cli("plot", style, "-o", target, "--force").out
