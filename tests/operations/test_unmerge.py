"""Adapters are subtracted as they were merged: as much, in the same modules; and what the recipe says against it is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from adapterhub import merge, replay, unmerge
from adapterhub.documents import Conversion
from adapterhub.errors import UsageError
from tests.operations.merge_files import MODULES, base, lora, place

PLACES = [place(component, module) for component, modules in MODULES.items() for module in modules]


def told(done: Conversion, code: str) -> list[str]:
    return [problem.message for problem in done.problems if problem.code == code]


def off(model: Path, merged: Path, restored: Path) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """By place, how far each number is from the base's, and units in the last place of the merged one and of its own."""
    before, between, after = map(load_file, (model, merged, restored))
    return {name: (np.abs(after[name].double().numpy() - before[name].double().numpy()),
                   *(np.spacing(np.abs(one[name].numpy())).astype("f8") for one in (between, after)))
            for name in before if before[name].is_floating_point()}  # fmt: skip


@pytest.mark.parametrize(
    "selection", [{"blocks": "OUTALL"}, {"include": ["unet.*"], "exclude": ["*.conv1"]}, {"blocks": "TOML"}], ids=str
)
def test_what_was_merged_in_part_is_taken_out_in_part(tmp_path: Path, selection: dict) -> None:
    model, a, factors = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors"), tmp_path / "f.toml"
    factors.write_text('"unet.down_blocks.*" = 0.5\n"text_encoder.*" = 0\n')
    selection = {name: str(factors) if value == "TOML" else value for name, value in selection.items()}
    out, back = tmp_path / "out.safetensors", tmp_path / "back.safetensors"
    merge(model, [(a, 0.7)], out, architecture="sd1", **selection)
    done = unmerge(out, [(a, 0.7)], back, architecture="sd1", **selection)
    assert told(done, "not-as-merged") == []
    for error, merged, own in off(model, out, back).values():
        assert (error <= (merged + own) / 2).all()


@pytest.mark.parametrize(
    ("taken", "options", "messages"),
    [
        (("a", 0.5), {"blocks": "OUTALL"}, ["was merged × 0.7, and is taken out × 0.5"]),
        (("a", 0.7, 0.1), {"blocks": "OUTALL"}, ["was merged × 0.7, and is taken out × 0.7 (text encoders × 0.1)"]),
        (("b", 0.7), {"blocks": "OUTALL"}, ["is no file that the recipe of out.safetensors names"]),
        (("a", 0.7), {}, ["out.safetensors was made with other --blocks"]),
        (("a", 0.7), {"blocks": "OUTALL", "exclude": ["x"]}, ["out.safetensors was made with other --exclude"]),
    ],
)  # fmt: skip
def test_what_the_recipe_says_otherwise_is_told(tmp_path: Path, taken: tuple, options: dict, messages: list) -> None:
    model, a = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    lora(tmp_path / "b.safetensors", 1)
    merge(model, [(a, 0.7)], tmp_path / "out.safetensors", architecture="sd1", blocks="OUTALL")
    name, *strengths = taken
    done = unmerge(tmp_path / "out.safetensors", [(tmp_path / f"{name}.safetensors", *strengths)], tmp_path / "back.safetensors",
                   architecture="sd1", dry_run=True, **options)  # fmt: skip
    found = [message.replace(f"{tmp_path}/", "") for message in told(done, "not-as-merged")]
    assert len(found) == len(messages)
    assert all(wanted in message for wanted, message in zip(messages, found, strict=True))


def test_a_model_without_a_recipe_has_nothing_to_say(tmp_path: Path) -> None:
    model, a = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    done = unmerge(model, [a], tmp_path / "back.safetensors", architecture="sd1")
    assert told(done, "not-as-merged") == []


@pytest.mark.parametrize("text", [
    "", "no JSON", '{"command": "merge"}', '{"command": "merge", "version": "1", "parameters": {"adapters": 5}, "inputs": []}',
    '{"command": "merge", "version": "1", "parameters": {"adapters": [[{"input": 9}, 1, 1]]}, "inputs": []}',
    '{"command": "merge", "version": "1", "parameters": {"adapters": [[{"input": 0}, "x", []]]}, "inputs": [{"name": "a"}]}',
])  # fmt: skip
def test_a_recipe_that_is_none_says_nothing(tmp_path: Path, text: str) -> None:
    model, a = base(tmp_path / "m.safetensors", **{"adapterhub.recipe": text}), lora(tmp_path / "a.safetensors")
    done = unmerge(model, [a], tmp_path / "back.safetensors", architecture="sd1", check=False)
    assert told(done, "not-as-merged") == []


def test_after_rounding_by_chance_the_bound_is_wider_and_said_to_be(tmp_path: Path) -> None:
    model, a = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    out, back = tmp_path / "out.safetensors", tmp_path / "back.safetensors"
    plain = "half a unit in the last place of what a merge made of it, for each merge"
    chance = "a whole unit for the last merge, which rounded by chance"
    wide = False
    for seed in range(8):
        merge(model, [a], out, architecture="sd1", rounding="stochastic", seed=seed, force=True)
        (message,) = told(unmerge(out, [a], back, architecture="sd1", force=True), "subtracted")
        assert plain in message
        assert chance in message
        found = off(model, out, back)
        assert all((error <= merged + own / 2).all() for error, merged, own in found.values())
        wide |= any((error > (merged + own) / 2).any() for error, merged, own in found.values())
    assert wide, "no number was off by more than rounding to the nearest allows"
    merge(model, [a], out, architecture="sd1", force=True)
    (message,) = told(unmerge(out, [a], back, architecture="sd1", force=True), "subtracted")
    assert chance not in message


def test_what_became_infinite_is_said_to_stay_so(tmp_path: Path) -> None:
    model, a = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors")
    out, back = tmp_path / "out.safetensors", tmp_path / "back.safetensors"
    merge(model, [(a, 1e6)], out, architecture="sd1", allow_loss=True)
    (message,) = told(unmerge(out, [(a, 1e6)], back, architecture="sd1"), "subtracted")
    assert "what became infinite stays so" in message
    assert all(torch.isinf(load_file(back)[name]).any() for name in PLACES)


def test_an_undo_file_says_itself_what_is_taken_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="an undo file says itself what is taken out, blocks, include included"):
        unmerge(tmp_path / "m", [], tmp_path / "out", undo=tmp_path / "u", blocks="ALL", include=["x"])
    with pytest.raises(
        UsageError, match="an undo file says itself what is taken out, architecture, allow_loss included"
    ):
        unmerge(tmp_path / "m", [], tmp_path / "out", undo=tmp_path / "u", architecture="sd1", allow_loss=True)


def test_a_subtraction_by_factors_is_replayed(tmp_path: Path, cli) -> None:
    model, a, factors = base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors"), tmp_path / "f.toml"
    factors.write_text('"unet.down_blocks.*" = 0.5\n')
    out, back, db = (tmp_path / name for name in ("out.safetensors", "back.safetensors", "r.db"))
    merge(model, [(a, 0.7)], out, architecture="sd1", blocks=str(factors))
    told = cli(
        "unmerge",
        out,
        f"{a}:0.7",
        "-o",
        back,
        "--blocks",
        factors,
        "--exclude",
        "*.conv1",
        "--architecture",
        "sd1",
        "--db",
        db,
    )
    assert told.status == 0, told.err
    factors.unlink()
    assert cli("index", tmp_path, "--db", db).status == 0
    assert replay(str(back), db=db).same
