"""Every algorithm's shapes are held against the base before a byte is written, and all modules that do not fit are listed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapterhub import merge
from adapterhub.errors import LossyConversion
from tests.operations.merge_files import CONV, OUT, PROJ, TEXT, Q, base, content, expected, head, place

LINEAR, KERNEL = (Q, OUT), (CONV,)
Roles = dict[str, Tensor]


def of(**shapes: tuple[int, ...]) -> Roles:
    """Ones; two underscores stand for a dot."""
    return {name.replace("__", "."): torch.ones(shape) for name, shape in shapes.items()}


def ia3(*shape: int, on_input: bool = False) -> Roles:
    return of(weight=shape) | {"on_input": torch.tensor(int(on_input))}


def low(rows: int, columns: int) -> Roles:
    return of(lora_up__weight=(rows, 1), lora_down__weight=(1, columns))


# A 2×2 matrix, or a 2×2×2×2 convolution, is what the base has there.
MISFITS: dict[str, tuple[tuple[str, ...], Roles, str]] = {
    "ia3 on the output": (LINEAR, ia3(3), "does not fit"),
    "ia3 on the input": (LINEAR, ia3(5, on_input=True), "does not fit"),
    "ia3 of a single number": (LINEAR, ia3(1), "does not fit"),
    "ia3 of a convolution": (KERNEL, ia3(1, 8, 1, 1, on_input=True), "does not fit"),
    "dora": (LINEAR, low(2, 2) | of(dora_scale=(3, 1)), r"its dora_scale \[3, 1\] does not fit"),
    "dora along the input": (KERNEL, low(2, 8) | of(dora_scale=(1, 8, 1, 1)), r"its dora_scale \[1, 8, 1, 1\] does not fit"),
    "loha": (LINEAR, of(hada_w1_a=(2, 1), hada_w1_b=(1, 2), hada_w2_a=(3, 1), hada_w2_b=(1, 2)), r"its hada_w2_a \[3, 1\]"),
    "loha with cores": (KERNEL, of(hada_w1_a=(1, 2), hada_w1_b=(1, 2), hada_t1=(1, 1, 2, 2), hada_w2_a=(1, 2),
                                   hada_w2_b=(1, 3), hada_t2=(1, 1, 2, 2)), r"its hada_w2_b \[1, 3\]"),
    "loha with one core": (KERNEL, of(hada_w1_a=(1, 2), hada_w1_b=(1, 2), hada_t1=(1, 1, 2, 2), hada_w2_a=(2, 1),
                                      hada_w2_b=(1, 8)), r"its hada_t1 \[1, 1, 2, 2\]"),
    "lokr": (LINEAR, of(lokr_w1=(2, 3), lokr_w2=(1, 1)), "does not fit"),
    "lokr with a core": (KERNEL, of(lokr_w1=(1, 1), lokr_w2_a=(1, 2), lokr_w2_b=(1, 8), lokr_t2=(1, 1, 1, 1)), r"its lokr_t2 \[1, 1, 1, 1\]"),
    "locon with a core": (KERNEL, of(lora_up__weight=(2, 1, 1, 1), lora_down__weight=(1, 2, 1, 1), lora_mid__weight=(1, 1, 3, 3)),
                          "does not fit"),
    "locon of another kernel": (KERNEL, of(lora_up__weight=(2, 1, 1, 1), lora_down__weight=(1, 2, 4, 1)), r"its lora_down \[1, 2, 4, 1\]"),
    "lora with a kernel in its second factor": (KERNEL, of(lora_up__weight=(2, 1, 2, 2), lora_down__weight=(1, 2, 2, 2)), "its lora_up"),
    "sparse residual": (LINEAR, low(2, 2) | {"bias_indices": torch.zeros(2, 3, dtype=torch.int16),
                                             "bias_values": torch.ones(2), "bias_size": torch.tensor([2, 2])},
                        r"its bias_indices \[2, 3\]"),
    "dense residual": (LINEAR, low(2, 2) | of(bias=(2, 3)), r"its residual \[2, 3\]"),
    "oft": (LINEAR, of(oft_blocks=(3, 1, 1)), "does not fit"),
    "oft of oblong blocks": (LINEAR, of(oft_blocks=(1, 1, 2)), "does not fit"),
    "oft that rescales": (LINEAR, of(oft_blocks=(1, 2, 2), rescale=(3, 1)), r"its rescale \[3, 1\]"),
    "oft that rescales by one number": (LINEAR, of(oft_blocks=(1, 2, 2), rescale=(1, 1)), r"its rescale \[1, 1\]"),
    "early oft": (LINEAR, of(oft_diag=(2, 2, 2)), "does not fit"),
    "boft": (LINEAR, of(oft_blocks=(1, 3, 2, 2)), "does not fit"),
    "boft of too many stages": (LINEAR, of(oft_blocks=(2, 1, 2, 2)), "does not fit"),
    "glora": (LINEAR, of(a1__weight=(3, 1), a2__weight=(1, 3), b1__weight=(2, 1), b2__weight=(1, 2)), r"its a1 \[3, 1\], a2 \[1, 3\]"),
    "glora of a convolution": (KERNEL, of(a1__weight=(2, 1), a2__weight=(1, 2), b1__weight=(2, 1), b2__weight=(1, 2, 3, 1)), "its b2"),
    "full": (LINEAR, of(diff=(3, 2)), "does not fit"),
    "replacement": (LINEAR, of(set_weight=(4, 1)), "does not fit"),
}  # fmt: skip


def file(folder: Path, modules: tuple[str, ...], roles: Roles) -> Path:
    """A good module of the text encoder, whose shapes tell no more than the others' do, and `roles` for each of `modules`."""
    path, good = folder / "a.safetensors", ia3(2) if "on_input" in roles else low(2, 2)
    given = {f"{head('unet', module)}.{role}": value.clone() for module in modules for role, value in roles.items()}
    save_file(given | {f"{head('text_encoder', TEXT)}.{role}": value for role, value in good.items()}, path)
    return path


@pytest.mark.parametrize("name", MISFITS)
def test_all_that_does_not_fit_is_listed_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    modules, roles, told = MISFITS[name]
    model, adapter = base(tmp_path / "base.safetensors"), file(tmp_path, modules, roles)
    with pytest.raises(LossyConversion, match=told) as refused:
        merge(model, [adapter], tmp_path / "out.safetensors", architecture="sd1")
    assert [place for place, _ in refused.value.losses] == [f"{adapter}: unet.{module}" for module in modules]
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("name", MISFITS)
def test_with_allow_loss_all_of_it_is_left_out_and_listed(tmp_path: Path, name: str) -> None:
    modules, roles, _ = MISFITS[name]
    model, adapter, out = (
        base(tmp_path / "base.safetensors"),
        file(tmp_path, modules, roles),
        tmp_path / "out.safetensors",
    )
    done = merge(model, [adapter], out, architecture="sd1", allow_loss=True)
    dropped = {source for entry in done.entries if entry.action == "drop" for source in entry.source}
    assert dropped == {f"{adapter}:{name}" for name in load_file(adapter) if name.startswith("lora_unet")}
    before, after = content(model), content(out)
    assert [name for name in before if before[name] != after[name]] == [place("text_encoder", TEXT)]


def test_misfits_of_several_algorithms_are_told_together(tmp_path: Path) -> None:
    model, adapter = base(tmp_path / "base.safetensors"), tmp_path / "a.safetensors"
    rows = {
        Q: ia3(3),
        OUT: low(2, 2) | of(dora_scale=(3, 1)),
        CONV: of(oft_blocks=(1, 2, 2), rescale=(4, 1)),
        PROJ: of(diff=(3, 3)),
    }
    save_file(
        {f"{head('unet', module)}.{role}": value for module, roles in rows.items() for role, value in roles.items()},
        adapter,
    )
    with pytest.raises(LossyConversion, match="4 modules cannot be merged") as refused:
        merge(model, [adapter], tmp_path / "out.safetensors", architecture="sd1")
    assert {place for place, _ in refused.value.losses} == {f"{adapter}: unet.{module}" for module in rows}


@pytest.mark.parametrize("roles", [
    of(lora_up__weight=(2, 1, 1, 1), lora_down__weight=(1, 2, 1, 1), lora_mid__weight=(1, 1, 1, 1)),
    of(hada_w1_a=(1, 2), hada_w1_b=(1, 2), hada_t1=(1, 1, 1, 1), hada_w2_a=(1, 2), hada_w2_b=(1, 2), hada_t2=(1, 1, 1, 1)),
    of(lokr_w1=(1, 1), lokr_w2_a=(1, 2), lokr_w2_b=(1, 2), lokr_t2=(1, 1, 1, 1)),
    of(lokr_w1=(1, 1), lokr_w2=(2, 2, 1, 1)),
], ids=["locon", "loha", "lokr with a core", "lokr"])  # fmt: skip
def test_a_kernel_of_one_position_fits_a_linear_layer(tmp_path: Path, roles: Roles) -> None:
    """Projections of attention blocks are linear layers in one model and 1x1 convolutions in another."""
    model, adapter, out = (
        base(tmp_path / "base.safetensors"),
        file(tmp_path, (Q, PROJ), roles),
        tmp_path / "out.safetensors",
    )
    merge(model, [adapter], out, architecture="sd1")
    changed = [place("unet", Q), place("unet", PROJ), place("text_encoder", TEXT)]
    assert content(out) == expected(model, dict.fromkeys(changed, lambda weight: weight + 1))


def test_ia3_of_peft_on_the_input_of_a_convolution_runs_along_its_channels(tmp_path: Path) -> None:
    model, out, folder = base(tmp_path / "base.safetensors"), tmp_path / "out.safetensors", tmp_path / "ia3"
    folder.mkdir()
    save_file(
        {f"base_model.model.{CONV}.ia3_l": torch.tensor([2.0, 0.5]).reshape(1, 2, 1, 1)},
        folder / "adapter_model.safetensors",
    )
    config = {"peft_type": "IA3", "target_modules": [CONV], "feedforward_modules": [CONV]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    merge(model, [folder], out, architecture="sd1")
    factors = np.array([2.0, 0.5]).reshape(1, 2, 1, 1)
    assert content(out) == expected(model, {place("unet", CONV): lambda weight: weight * factors})
