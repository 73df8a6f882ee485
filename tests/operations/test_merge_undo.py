"""An undo file restores the base byte for byte; without one, subtracting comes as near as the dtype allows."""

from __future__ import annotations

import filecmp
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from adapterhub import convert, merge, unmerge
from adapterhub import metadata as edit
from adapterhub.errors import AdapterhubError, MalformedFile, RefusedInput, UsageError
from tests.operations.merge_files import OUT, Q, base, changed, content, head, lora, place, shape

Altered = Callable[[dict[str, torch.Tensor]], object]
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2)


def relative(path: Path) -> Path:
    """DoRA, OFT and IA3, whose changes are no sums."""
    tensors = {
        f"{head('unet', Q)}.lora_down.weight": torch.randn(2, 2), f"{head('unet', Q)}.lora_up.weight": torch.randn(2, 2),
        f"{head('unet', Q)}.alpha": torch.tensor(2.0), f"{head('unet', Q)}.dora_scale": torch.rand(2, 1) + 1,
        f"{head('unet', OUT)}.oft_blocks": torch.randn(1, *shape("unet", OUT)), f"{head('unet', OUT)}.alpha": torch.tensor(0.0),
    }  # fmt: skip
    save_file(tensors, path)
    return path


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dtype=st.sampled_from(DTYPES), strengths=st.lists(st.floats(-2, 2), min_size=1, max_size=3),
    seed=st.integers(0, 99), chance=st.booleans(), others=st.booleans(),
)  # fmt: skip
def test_the_base_comes_back_byte_for_byte(
    tmp_path: Path, dtype: torch.dtype, strengths: list[float], seed: int, chance: bool, others: bool
) -> None:
    model = base(tmp_path / "base.safetensors", dtype, note="any")
    adapters = [(lora(tmp_path / f"{n}.safetensors", seed + n), strength) for n, strength in enumerate(strengths)]
    if others:
        adapters.append((relative(tmp_path / "relative.safetensors"), 0.5))
    out, undo, back = (tmp_path / name for name in ("out.safetensors", "out.undo", "back.safetensors"))
    done = merge(model, adapters, out, undo=undo, rounding="stochastic" if chance else "nearest", force=True, architecture="sd1",
                 allow_loss=True)  # fmt: skip
    assert done.undo is not None
    for adapter, _ in adapters:
        adapter.unlink()
    restored = unmerge(out, [], back, undo=undo, force=True)
    assert back.read_bytes() == model.read_bytes()
    assert restored.exactness == "bit-exact"


@pytest.mark.parametrize("style", ["pretty", "as written"])
def test_a_folder_comes_back_byte_for_byte_with_its_documents(tmp_path: Path, style: str) -> None:
    folder, out, undo, back = (tmp_path / name for name in ("folder", "out", "m.undo", "back"))
    convert(base(tmp_path / "base.safetensors"), folder, to="diffusers", architecture="sd1")
    if style == "pretty":
        for document in folder.rglob("*.json"):
            document.write_text(json.dumps(json.loads(document.read_text("utf-8")), indent=7) + "\n\n", "utf-8")
    adapters = [(lora(tmp_path / "a.safetensors"), 0.7), (relative(tmp_path / "relative.safetensors"), 0.5)]
    done = merge(folder, adapters, out, undo=undo, architecture="sd1")
    assert not filecmp.cmpfiles(folder, out, ["unet/diffusion_pytorch_model.safetensors"], shallow=False)[0]
    restored = unmerge(out, [], back, undo=undo)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert sorted(str(path.relative_to(back)) for path in back.rglob("*") if path.is_file()) == names
    assert filecmp.cmpfiles(folder, back, names, shallow=False) == (names, [], [])
    assert (done.exactness, restored.exactness) == ("exact", "bit-exact")


def test_an_undo_file_whose_documents_lead_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder, out, undo = (tmp_path / name for name in ("folder", "out", "m.undo"))
    convert(base(tmp_path / "base.safetensors"), folder, to="diffusers", architecture="sd1")
    merge(folder, [lora(tmp_path / "a.safetensors")], out, undo=undo, architecture="sd1")
    with safe_open(undo, "np") as opened:
        field = opened.metadata()["adapterhub.undo"].replace("model_index.json", "../model_index.json")
    save_file(load_file(undo), undo, {"adapterhub.undo": field})
    with pytest.raises(RefusedInput, match="no undo file of a merge"):
        unmerge(out, [], tmp_path / "deep" / "back", undo=undo)
    assert not list(tmp_path.rglob("deep*"))


def test_shards_have_no_undo_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    convert(base(tmp_path / "base.safetensors"), folder, to="diffusers", architecture="sd1")
    whole = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    places = {
        name: f"diffusion_pytorch_model-0000{1 + number % 2}-of-00002.safetensors"
        for number, name in enumerate(tensors)
    }
    for shard in set(places.values()):
        save_file({name: tensor for name, tensor in tensors.items() if places[name] == shard}, whole.with_name(shard))
    whole.with_name(f"{whole.name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    with pytest.raises(UsageError, match="without shards"):
        merge(folder, [lora(tmp_path / "a.safetensors")], tmp_path / "out", undo=tmp_path / "u", architecture="sd1")
    assert not (tmp_path / "out").exists()


def test_a_model_or_an_undo_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    model, a = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    out, undo, back = (tmp_path / name for name in ("out.safetensors", "out.undo", "back.safetensors"))
    merge(model, [a], out, undo=undo, architecture="sd1")
    raw = bytearray(undo.read_bytes())
    raw[-1] ^= 1  # the last factor
    (tmp_path / "bent.undo").write_bytes(raw)
    with pytest.raises(AdapterhubError, match=r"nothing was put in place|no undo file"):
        unmerge(out, [], back, undo=tmp_path / "bent.undo")
    with pytest.raises(RefusedInput, match="no undo file of a merge"):
        unmerge(out, [], back, undo=a)
    merge(model, [(a, 0.5)], out, architecture="sd1", force=True)
    with pytest.raises(AdapterhubError, match=r"is not what .*out\.undo belongs to"):
        unmerge(out, [], back, undo=undo)
    assert not back.exists()


def test_a_model_whose_metadata_were_edited_is_restored_all_the_same(tmp_path: Path) -> None:
    model, a = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    out, undo, back = (tmp_path / name for name in ("out.safetensors", "out.undo", "back.safetensors"))
    merge(model, [a], out, undo=undo, architecture="sd1")
    edit(out, set={"modelspec.title": "Mine"})
    for dry_run in (True, False):
        done = unmerge(out, [], back, undo=undo, dry_run=dry_run)
        (message,) = [problem.message for problem in done.problems if problem.code == "edited"]
        assert "is not as merge wrote it" in message
        assert back.exists() is not dry_run
    assert back.read_bytes() == model.read_bytes()
    assert done.exactness == "bit-exact"


def test_a_folder_whose_documents_were_edited_is_restored_all_the_same(tmp_path: Path) -> None:
    folder, out, undo, back = (tmp_path / name for name in ("folder", "out", "m.undo", "back"))
    convert(base(tmp_path / "base.safetensors"), folder, to="diffusers", architecture="sd1")
    merge(folder, [lora(tmp_path / "a.safetensors")], out, undo=undo, architecture="sd1")
    edit(out / "unet" / "diffusion_pytorch_model.safetensors", set={"modelspec.title": "Mine"})
    (out / "model_index.json").write_text("{}")
    unmerge(out, [], back, undo=undo)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert filecmp.cmpfiles(folder, back, names, shallow=False) == (names, [], [])


def other_numbers(tensors: dict[str, torch.Tensor]) -> None:
    tensors[place("unet", Q)] += 1


def other_shapes(tensors: dict[str, torch.Tensor]) -> None:
    tensors[place("unet", Q)] = torch.ones(3, 5, dtype=torch.float16)


def fewer_tensors(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[place("unet", Q)]


def another_dtype(tensors: dict[str, torch.Tensor]) -> None:
    tensors[place("unet", Q)] = tensors[place("unet", Q)].float()


@pytest.mark.parametrize("alter", [other_numbers, other_shapes, fewer_tensors, another_dtype])
@pytest.mark.parametrize("adapter", [lora, relative])
def test_another_model_is_not_what_the_undo_file_belongs_to(
    tmp_path: Path, alter: Altered, adapter: Callable[[Path], Path]
) -> None:
    model, a = base(tmp_path / "base.safetensors"), adapter(tmp_path / "a.safetensors")
    out, undo, back = (tmp_path / name for name in ("out.safetensors", "out.undo", "back.safetensors"))
    merge(model, [a], out, undo=undo, architecture="sd1")
    changed(out, alter)
    with pytest.raises(AdapterhubError, match=r"is not what .*out\.undo belongs to: its sha256 is") as refused:
        unmerge(out, [], back, undo=undo)
    assert "Give the model as merge wrote it" in str(refused.value)
    assert refused.value.exit_status == 1
    assert not back.exists()


def test_a_model_that_is_cut_off_is_called_that(tmp_path: Path) -> None:
    model, a = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    out, undo, back = (tmp_path / name for name in ("out.safetensors", "out.undo", "back.safetensors"))
    merge(model, [a], out, undo=undo, architecture="sd1")
    out.write_bytes(out.read_bytes()[:-1])
    with pytest.raises(MalformedFile, match=r"out\.safetensors: .*missing"):
        unmerge(out, [], back, undo=undo)
    assert not back.exists()


def said_of(work: Callable[[], object]) -> str | None:
    """The message of the refusal, if there is one."""
    try:
        work()
    except AdapterhubError as error:
        return f"{error.message} {error.mend}"
    return None


def test_wherever_an_undo_file_is_damaged_it_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    model, a = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    out, undo, back = (tmp_path / name for name in ("out.safetensors", "out.undo", "back.safetensors"))
    merge(model, [a], out, undo=undo, architecture="sd1")
    raw, draw = undo.read_bytes(), random.Random(0)
    for _ in range(80):
        bent = bytearray(raw)
        bent[draw.randrange(len(bent))] ^= 1 << draw.randrange(8)
        undo.write_bytes(bent)
        told = said_of(lambda: unmerge(out, [], back, undo=undo))
        assert told is None or "out.undo" in told
        if told is None:  # nothing of it was: the digest of the merged model
            assert back.read_bytes() == model.read_bytes()
            back.unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.safetensors",
        "base.safetensors",
        "out.safetensors",
        "out.undo",
    ]


def test_subtracting_comes_within_the_rounding_that_it_states(tmp_path: Path) -> None:
    model, a, b = (
        base(tmp_path / "base.safetensors"),
        lora(tmp_path / "a.safetensors"),
        lora(tmp_path / "b.safetensors", 1),
    )
    out, back = tmp_path / "out.safetensors", tmp_path / "back.safetensors"
    merge(model, [(a, 0.7, 0.2), (b, -0.3)], out, architecture="sd1")
    done = unmerge(out, [(a, 0.7, 0.2), (b, -0.3)], back, architecture="sd1")
    assert done.command == "unmerge"
    assert [problem.code for problem in done.problems if problem.code == "subtracted"] == ["subtracted"]
    before, between, after = load_file(model), load_file(out), load_file(back)
    touched = {name for name in before if not torch.equal(before[name], between[name])}
    assert len(touched) == 6
    for name, value in before.items():
        if name not in touched:
            assert torch.equal(value, after[name])
            continue
        off = np.abs(after[name].double().numpy() - value.double().numpy())
        units = [np.spacing(np.abs(one[name].numpy())).astype("f8") for one in (between, after)]
        assert (off <= (units[0] + units[1]) / 2).all()


def test_a_change_that_is_no_sum_is_not_subtracted(tmp_path: Path) -> None:
    model, a = base(tmp_path / "base.safetensors"), relative(tmp_path / "a.safetensors")
    with pytest.raises(RefusedInput, match=r"dora|lora.*oft"):
        unmerge(model, [a], tmp_path / "out.safetensors", architecture="sd1")


def test_what_is_stored_is_small(tmp_path: Path) -> None:
    wide = torch.Generator().manual_seed(0)
    model = base(tmp_path / "base.safetensors")
    tensors = load_file(model)
    tensors[place("unet", Q)] = (torch.randn(1024, 1024, generator=wide) * 0.03).half()
    save_file(tensors, model)
    name = head("unet", Q)
    save_file({f"{name}.lora_down.weight": torch.randn(4, 1024, generator=wide) * 0.02,
               f"{name}.lora_up.weight": torch.randn(1024, 4, generator=wide) * 0.02}, tmp_path / "a.safetensors")  # fmt: skip
    merge(model, [tmp_path / "a.safetensors"], tmp_path / "out.safetensors", undo=tmp_path / "u", architecture="sd1")
    factors = 4 * 2 * 4 * 1024
    assert (
        tmp_path / "u"
    ).stat().st_size - factors < 0.05 * 2 * 1024 * 1024 + 40_000  # the header of the base is 40 kB
    assert content(model) != content(tmp_path / "out.safetensors")


def test_what_is_no_undo_file_is_called_what_it_is(tmp_path: Path) -> None:
    model, a = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.ones(2)}, other)
    for path, kind in ((model, "a checkpoint"), (a, "a LoRA"), (other, "a file of no known kind")):
        with pytest.raises(RefusedInput, match=f"{path} is no undo file of a merge, but {kind}") as refused:
            unmerge(model, [], tmp_path / "back.safetensors", undo=path)
        assert "merge --undo FILE makes one" in str(refused.value)
    assert not (tmp_path / "back.safetensors").exists()
