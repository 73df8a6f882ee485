"""What cannot be merged is refused before a byte is written, all of it listed; nothing is left at the output path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapterhub import merge, unmerge
from adapterhub.errors import (
    AdapterhubError,
    BrokenAdapter,
    LossyConversion,
    NotAnAdapter,
    OutputExists,
    RefusedInput,
    UnknownName,
    UsageError,
)
from tests.operations.merge_files import (
    CONV,
    OUT,
    PROJ,
    TEXT,
    Q,
    base,
    change,
    changed,
    content,
    expected,
    head,
    lora,
    place,
)

Made = Callable[[Path], tuple[Path, Path]]


def without_module(folder: Path) -> tuple[Path, Path]:
    model = changed(base(folder / "base.safetensors"), lambda t: [t.pop(place("unet", Q)), t.pop(place("unet", CONV))])
    return model, lora(folder / "a.safetensors")


def other_shape(folder: Path) -> tuple[Path, Path]:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for module in (Q, OUT):
            tensors[f"{head('unet', module)}.lora_up.weight"] = torch.ones(6, 2)

    return base(folder / "base.safetensors"), changed(lora(folder / "a.safetensors"), edit)


def embedding_inside(folder: Path) -> tuple[Path, Path]:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors["bundle_emb.cat.string_to_param.*"] = torch.ones(2, 768)

    return base(folder / "base.safetensors"), changed(lora(folder / "a.safetensors"), edit)


def bias_of_nothing(folder: Path) -> tuple[Path, Path]:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{head('unet', Q)}.diff_b"] = torch.ones(2)

    return base(folder / "base.safetensors"), changed(lora(folder / "a.safetensors"), edit)


def bias_of_another_length(folder: Path) -> tuple[Path, Path]:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{head('unet', PROJ)}.diff_b"] = torch.ones(3)

    return base(folder / "base.safetensors"), changed(lora(folder / "a.safetensors"), edit)


def norm_of_a_layer(folder: Path) -> tuple[Path, Path]:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(f"{head('unet', Q)}.")]:
            del tensors[name]
        tensors[f"{head('unet', Q)}.w_norm"] = torch.ones(2)

    return base(folder / "base.safetensors"), changed(lora(folder / "a.safetensors"), edit)


def not_a_number(folder: Path) -> tuple[Path, Path]:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{head('unet', Q)}.lora_up.weight"][0, 0] = torch.nan
        tensors[f"{head('unet', OUT)}.lora_down.weight"][0, 0] = torch.inf

    return base(folder / "base.safetensors"), changed(lora(folder / "a.safetensors"), edit)


def other_architecture(folder: Path) -> tuple[Path, Path]:
    path = folder / "a.safetensors"
    name = "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q"
    save_file({f"{name}.lora_down.weight": torch.ones(2, 640), f"{name}.lora_up.weight": torch.ones(640, 2)}, path)
    return base(folder / "base.safetensors"), path


def scaled_fp8(folder: Path) -> tuple[Path, Path]:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors[place("unet", Q).replace("weight", "scale_weight")] = torch.tensor(2.0)

    return changed(base(folder / "base.safetensors", torch.float8_e4m3fn), edit), lora(folder / "a.safetensors")


def an_embedding(folder: Path) -> tuple[Path, Path]:
    save_file({"emb_params": torch.ones(2, 768)}, folder / "a.safetensors")
    return base(folder / "base.safetensors"), folder / "a.safetensors"


def no_model(folder: Path) -> tuple[Path, Path]:
    return lora(folder / "base.safetensors"), lora(folder / "a.safetensors")


def overflowing(folder: Path) -> tuple[Path, Path]:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{head('unet', Q)}.lora_up.weight"] = torch.full((2, 2), 60000.0)
        tensors[f"{head('unet', Q)}.lora_down.weight"] = torch.ones(2, 2)

    return base(folder / "base.safetensors"), changed(lora(folder / "a.safetensors", alpha=2.0), edit)


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (without_module, LossyConversion, "2 modules cannot be merged.*the base has no such module"),
        (other_shape, LossyConversion, r"2 modules cannot be merged.*does not fit the base, whose weight is \[2, 2\]"),
        (embedding_inside, LossyConversion, "an embedding is called by its token"),
        (bias_of_nothing, LossyConversion, "the base has no bias there"),
        (bias_of_another_length, LossyConversion, "its diff_b does not fit the base's bias of 2 numbers"),
        (norm_of_a_layer, LossyConversion, r"does not fit the base, whose weight is \[2, 2\]"),
        (not_a_number, BrokenAdapter, "2 tensors hold values that are NaN or infinite"),
        (other_architecture, NotAnAdapter, "Stable Diffusion 1.*a.safetensors is for Stable Diffusion XL"),
        (scaled_fp8, RefusedInput, "its fp8 numbers are scaled"),
        (an_embedding, LossyConversion, "an embedding is called by its token"),
        (no_model, NotAnAdapter, "a LoRA, and not a checkpoint"),
        (overflowing, LossyConversion, "4 numbers would become infinite"),
    ],
)  # fmt: skip
def test_it_is_refused_and_nothing_is_there(
    tmp_path: Path, make: Made, error: type[AdapterhubError], told: str
) -> None:
    model, adapter = make(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error, match=f"(?s){told}"):
        merge(model, [adapter], tmp_path / "out.safetensors", undo=tmp_path / "out.undo")
    assert sorted(tmp_path.iterdir()) == before


def test_numbers_that_are_none_are_refused_at_strength_zero_and_in_a_dry_run(tmp_path: Path) -> None:
    model, adapter = not_a_number(tmp_path)
    before = sorted(tmp_path.iterdir())
    for given, dry_run in (((adapter, 0.0), False), ((adapter, 1.0), True)):
        with pytest.raises(BrokenAdapter, match="2 tensors hold values that are NaN or infinite"):
            merge(model, [given], tmp_path / "out.safetensors", dry_run=dry_run)
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("make", [without_module, other_shape, embedding_inside, bias_of_nothing,
                                  bias_of_another_length, norm_of_a_layer])  # fmt: skip
def test_with_allow_loss_it_is_left_out_and_listed(tmp_path: Path, make: Made) -> None:
    model, adapter = make(tmp_path)
    done = merge(model, [adapter], tmp_path / "out.safetensors", allow_loss=True)
    assert done.exactness == "partial"
    assert [entry for entry in done.entries if entry.action == "drop"]
    whole = place("text_encoder", TEXT)
    one = expected(model, {whole: lambda weight: weight + change(adapter, "text_encoder", TEXT)})
    assert content(tmp_path / "out.safetensors")[whole] == one[whole]


def test_overflows_are_counted_where_they_are_allowed(tmp_path: Path) -> None:
    model, adapter = overflowing(tmp_path)
    done = merge(model, [adapter], tmp_path / "out.safetensors", allow_loss=True)
    assert [problem.message for problem in done.problems if problem.code == "overflow"] == ["4 numbers became infinite"]
    assert torch.isinf(load_file(tmp_path / "out.safetensors")[place("unet", Q)]).all()


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"blocks": "1,0"}, UsageError, "2 values, and a vector of sd1 has 17 or 26"),
        ({"blocks": "NOPE"}, UnknownName, "unknown preset of blocks 'NOPE'"),
        ({"blocks": "nofile.toml"}, UsageError, "nofile.toml is no file that exists"),
        ({"include": ["nothing*"]}, UsageError, "leave nothing to merge"),
        ({"exclude": ["*"]}, UsageError, "leave nothing to merge"),
        ({"rounding": "up"}, UnknownName, "unknown rounding"),
        ({"adapters": [("a.safetensors", float("inf"))]}, UsageError, "a strength is a finite number"),
        ({"adapters": [("a.safetensors", 1.0, float("nan"))]}, UsageError, "a strength is a finite number"),
        ({"seed": 3}, UsageError, "only stochastic rounding draws from a seed"),
        ({"dtype": "fp16", "undo": "u"}, UsageError, "an undo file restores safetensors, without shards"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(tmp_path: Path, options: dict, error: type[Exception], told: str) -> None:
    model, adapter = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    asked = {"adapters": [adapter], "architecture": "sd1", **options}
    with pytest.raises(error, match=told):
        merge(model, target=tmp_path / "out.safetensors", **asked)
    assert not (tmp_path / "out.safetensors").exists()


def test_every_adapter_of_another_architecture_is_named(tmp_path: Path) -> None:
    model, other = other_architecture(tmp_path)
    second = other.rename(tmp_path / "b.safetensors")
    other_architecture(tmp_path)
    with pytest.raises(
        NotAnAdapter, match=r"a\.safetensors is for Stable Diffusion XL.*; .*b\.safetensors is for Stable Diffusion XL"
    ):
        merge(model, [other, second, lora(tmp_path / "c.safetensors")], tmp_path / "out.safetensors")


def test_nothing_is_replaced_that_was_not_given_up(tmp_path: Path) -> None:
    model, adapter = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    (tmp_path / "there.undo").write_text("mine")
    with pytest.raises(UsageError, match="is the source itself"):
        merge(model, [adapter], model, force=True)
    with pytest.raises(OutputExists):
        merge(model, [model], adapter)
    with pytest.raises(UsageError, match=r"there\.undo exists"):
        merge(model, [adapter], tmp_path / "out.safetensors", undo=tmp_path / "there.undo", architecture="sd1")
    for source in (model, adapter):
        before = source.read_bytes()
        with pytest.raises(UsageError, match="is read: an input is never overwritten"):
            merge(model, [adapter], tmp_path / "out.safetensors", undo=source, architecture="sd1", force=True)
        assert source.read_bytes() == before
    assert not (tmp_path / "out.safetensors").exists()
    with pytest.raises(UsageError, match="say what to merge"):
        merge(model, [], tmp_path / "out.safetensors")
    with pytest.raises(UsageError, match="say what to take out"):
        unmerge(model, [], tmp_path / "out.safetensors")


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin", ".PNG"])
def test_safetensors_are_not_written_under_the_name_of_another_container(tmp_path: Path, suffix: str) -> None:
    model, adapter = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    merge(model, [adapter], tmp_path / "out.safetensors", undo=tmp_path / "u", architecture="sd1")
    out = tmp_path / f"out{suffix}"
    for undo in (None, tmp_path / "u"):
        with pytest.raises(UsageError, match=rf"out{suffix}: safetensors are not written as {suffix.lower()}"):
            unmerge(tmp_path / "out.safetensors", [] if undo else [adapter], out, undo=undo)
    for dry_run in (True, False):
        with pytest.raises(UsageError, match=rf"out{suffix}: safetensors are not written as {suffix.lower()}"):
            merge(model, [adapter], out, architecture="sd1", dry_run=dry_run)
    assert not out.exists()


def test_what_a_cast_makes_infinite_is_counted_though_no_adapter_touches_it(tmp_path: Path) -> None:
    model, adapter = base(tmp_path / "base.safetensors", torch.float32), lora(tmp_path / "a.safetensors")
    untouched = place("unet", "conv_in", "bias")
    changed(model, lambda tensors: tensors[untouched].fill_(70000.0))
    with pytest.raises(LossyConversion, match="2 numbers would become infinite"):
        merge(model, [adapter], tmp_path / "out.safetensors", architecture="sd1", dtype="fp16")
    assert not (tmp_path / "out.safetensors").exists()
    done = merge(model, [adapter], tmp_path / "out.safetensors", architecture="sd1", dtype="fp16", allow_loss=True)
    assert "cast-overflow" in [problem.code for problem in done.problems]
    assert done.exactness == "partial"
    assert torch.isinf(load_file(tmp_path / "out.safetensors")[untouched]).all()


def test_the_undo_file_is_not_the_output(tmp_path: Path) -> None:
    model, adapter = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    out = tmp_path / "out.safetensors"
    (tmp_path / "sub").mkdir()
    for undo in (out, tmp_path / "sub" / ".." / out.name):
        with pytest.raises(UsageError, match="is the output itself"):
            merge(model, [adapter], out, undo=undo, architecture="sd1")
    with pytest.raises(UsageError, match="is the output itself"):
        merge(model, [adapter], tmp_path / "sub", undo=tmp_path / "sub" / model.name, architecture="sd1", force=True)
    assert not out.exists()
    assert list((tmp_path / "sub").iterdir()) == []


def test_what_does_not_fit_while_it_is_computed_is_named(tmp_path: Path) -> None:
    model, adapter = base(tmp_path / "base.safetensors"), tmp_path / "a.safetensors"
    residual = {
        "bias_indices": torch.tensor([[0, 2], [1, 0]]),
        "bias_values": torch.ones(2),
        "bias_size": torch.tensor([2, 2]),
    }
    pair = {"lora_up.weight": torch.ones(2, 1), "lora_down.weight": torch.ones(1, 2)}
    save_file({f"{head('unet', Q)}.{role}": value for role, value in (pair | residual).items()}, adapter)
    with pytest.raises(BrokenAdapter, match=rf"unet\.{Q}: .*outside"):
        merge(model, [adapter], tmp_path / "out.safetensors", architecture="sd1")
    assert not (tmp_path / "out.safetensors").exists()
