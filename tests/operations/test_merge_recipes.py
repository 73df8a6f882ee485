"""The recipe of a merge repeats it to the same bytes, from the same files or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from adapterhub import files, merge
from adapterhub.errors import AdapterhubError, RefusedInput, UsageError
from tests.operations.merge_files import Q, base, changed, content, lora, place


def test_a_recipe_repeats_a_merge_to_the_same_bytes(tmp_path: Path) -> None:
    model = base(tmp_path / "base.safetensors")
    a, b = lora(tmp_path / "a.safetensors"), lora(tmp_path / "b.safetensors", 1)
    factors = tmp_path / "factors.toml"
    factors.write_text('"unet.down_blocks.*" = 0.5\n')
    out = tmp_path / "out.safetensors"
    first = merge(model, [(a, 0.7, 0.1), b], out, blocks=str(factors), exclude=["*.attn2.*"], rounding="stochastic", seed=3,
                  architecture="sd1")  # fmt: skip
    factors.unlink()
    again = merge(None, [], tmp_path / "again.safetensors", recipe=out)
    assert first.target.sha256 == again.target.sha256
    unnamed = out.replace(tmp_path / "unnamed")
    assert merge(None, [], out, recipe=unnamed).target.sha256 == first.target.sha256
    with safe_open(out, "pt") as file:
        (tmp_path / "recipe.json").write_text(file.metadata()["adapterhub.recipe"])
    merge(None, [], tmp_path / "third.safetensors", recipe=tmp_path / "recipe.json")
    assert (tmp_path / "third.safetensors").read_bytes() == out.read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "bf16"}, {"blocks": "OUTALL"}, {"blocks": "1" + ",0.3" * 25}, {"include": ["unet.*"]}, {"exclude": ["*.attn1.*"]},
        {"rounding": "stochastic"}, {"rounding": "stochastic", "seed": 9, "dtype": "fp16"}, {"allow_loss": True},
    ],
    ids=str,
)  # fmt: skip
def test_whatever_was_asked_for_is_repeated(tmp_path: Path, options: dict) -> None:
    model, out = base(tmp_path / "base.safetensors", torch.float32), tmp_path / "out.safetensors"
    if "allow_loss" in options:
        changed(model, lambda tensors: tensors.pop(place("unet", Q)))
    plain = tmp_path / "plain.safetensors"
    merge(model, [(lora(tmp_path / "a.safetensors"), 0.7, -0.1)], out, architecture="sd1", **options)
    merge(
        model, [(tmp_path / "a.safetensors", 0.7, -0.1)], plain, architecture="sd1", allow_loss="allow_loss" in options
    )
    assert (content(out) != content(plain)) is ("allow_loss" not in options)
    assert merge(None, [], tmp_path / "again.safetensors", recipe=out).target.sha256 == files.sha256(out)


def test_a_file_that_is_not_the_one_of_the_recipe_is_refused(tmp_path: Path) -> None:
    model, adapter = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    merge(model, [adapter], tmp_path / "out.safetensors", architecture="sd1")
    lora(adapter, 5)
    with pytest.raises(AdapterhubError, match=r"a\.safetensors is not the file of the recipe"):
        merge(None, [], tmp_path / "again.safetensors", recipe=tmp_path / "out.safetensors")
    lora(adapter)
    changed(model, lambda tensors: tensors[place("unet", Q)].add_(1))
    with pytest.raises(AdapterhubError, match=r"base\.safetensors is not the file of the recipe"):
        merge(None, [], tmp_path / "again.safetensors", recipe=tmp_path / "out.safetensors")
    assert not (tmp_path / "again.safetensors").exists()


def test_adapters_of_one_name_are_told_apart_by_what_they_are(tmp_path: Path) -> None:
    model = base(tmp_path / "base.safetensors")
    given = [(tmp_path / str(seed) / "a.safetensors", 0.5) for seed in (1, 2)]
    for path, _ in given:
        path.parent.mkdir()
        lora(path, int(path.parent.name))
    out, again = tmp_path / "out.safetensors", tmp_path / "again.safetensors"
    merge(model, given, out, architecture="sd1")
    assert merge(None, [], again, recipe=out).target.sha256 == files.sha256(out)
    given[0][0].unlink()
    given[1][0].rename(tmp_path / "a.safetensors")
    with pytest.raises(AdapterhubError, match=r"a\.safetensors is not the file of the recipe"):
        merge(None, [], again, recipe=out, force=True)


def test_inputs_that_moved_are_named_with_where_they_were_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {name: tmp_path / name for name in ("models", "loras", "made", "moved", "elsewhere")}
    for folder in folders.values():
        folder.mkdir()
    model, a = base(folders["models"] / "base.safetensors"), lora(folders["loras"] / "a.safetensors")
    b, out, again = (
        lora(folders["loras"] / "b.safetensors", 1),
        folders["made"] / "out.safetensors",
        tmp_path / "again.safetensors",
    )
    merge(model, [a, (b, 0.5)], out, architecture="sd1")
    monkeypatch.chdir(folders["elsewhere"])
    with pytest.raises(
        UsageError, match=r"base\.safetensors, a\.safetensors, b\.safetensors are neither here nor in"
    ) as refused:
        merge(None, [], again, recipe=out)
    assert "adapterhub replay" in str(refused.value)
    for path in (model, a):
        path.rename(folders["moved"] / path.name)
    monkeypatch.chdir(folders["moved"])
    with pytest.raises(UsageError, match=rf"b\.safetensors is neither here nor in {folders['made']}"):
        merge(None, [], again, recipe=out)
    b.rename(folders["made"] / b.name)
    assert merge(None, [], again, recipe=out).target.sha256 == files.sha256(out)


def test_a_recipe_is_repeated_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="how, dtype, rounding included"):
        merge(None, [], tmp_path / "out.safetensors", recipe=tmp_path / "r", dtype="bf16", rounding="stochastic")


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[1", b"\xff", b'{"base": 3, "adapters": []}', b'{"base": {}, "adapters": [3]}', b"\x80\x02"]
)
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "r.json").write_bytes(text)
    with pytest.raises(RefusedInput, match="no recipe of a merge"):
        merge(None, [], tmp_path / "out.safetensors", recipe=tmp_path / "r.json")
