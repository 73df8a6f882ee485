"""Subtracting: what the merged model tells of its merge is held against what is taken out; --undo leaves nothing to say."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapterhub import merge, unmerge
from adapterhub.documents import Conversion
from adapterhub.errors import UsageError
from tests.operations.merge_files import base, lora


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    return base(tmp_path / "base.safetensors"), lora(tmp_path / "a.safetensors", 1), lora(tmp_path / "b.safetensors", 2)


def odd(done: Conversion) -> list[str]:
    return [f"{Path(told.where).name}: {told.message}" for told in done.problems if told.code == "not-as-merged"]


def test_what_was_merged_otherwise_is_told(tmp_path: Path, files: tuple[Path, Path, Path]) -> None:
    model, a, b = files
    merged, out = tmp_path / "m.safetensors", tmp_path / "o.safetensors"
    merge(model, [(a, 0.7, 0.2)], merged, architecture="sd1")
    assert odd(unmerge(merged, [(a, 0.7, 0.2)], out, architecture="sd1", check=False)) == []
    assert odd(unmerge(merged, [a], out, architecture="sd1", force=True)) == [
        "a.safetensors: it was merged at 0.7:0.2, and is subtracted at 1:1"
    ]
    (told,) = odd(unmerge(merged, [(a, 0.7, 0.2), b], out, architecture="sd1", dry_run=True, force=True))
    assert told.startswith("b.safetensors: the last merge that the model tells of does not name this file")
    assert odd(unmerge(model, [a], out, architecture="sd1", force=True)) == []


def test_a_selection_that_subtracting_lacks_is_told(tmp_path: Path, files: tuple[Path, Path, Path]) -> None:
    model, a, _ = files
    merged = tmp_path / "m.safetensors"
    merge(model, [a], merged, include=["unet.*"], architecture="sd1")
    assert odd(unmerge(merged, [a], tmp_path / "o.safetensors", architecture="sd1")) == [
        "m.safetensors: it was merged with --include, and all of every adapter is subtracted"
    ]


def test_options_that_an_undo_file_leaves_nothing_to_are_refused(
    tmp_path: Path, files: tuple[Path, Path, Path]
) -> None:
    merged, undo, out = (tmp_path / name for name in ("m.safetensors", "m.undo", "o.safetensors"))
    merge(files[0], [files[1]], merged, undo=undo, architecture="sd1")
    for asked in ({"architecture": "sd1"}, {"allow_loss": True}):
        with pytest.raises(UsageError, match="leaves nothing to --a"):
            unmerge(merged, [], out, undo=undo, **asked)
    assert not out.exists()


@pytest.mark.parametrize("text", [
    "", "no JSON", '{"command": "merge"}', '{"command": "merge", "version": "1", "parameters": {"adapters": 5}, "inputs": []}',
    '{"command": "merge", "version": "1", "parameters": {"adapters": [[{"input": 9}, 1, 1]]}, "inputs": []}',
    '{"command": "merge", "version": "1", "parameters": {"adapters": [[{"input": 0}, "x", []]]}, "inputs": [{"name": "a"}]}',
])  # fmt: skip
def test_a_recipe_that_is_none_says_nothing(tmp_path: Path, files: tuple[Path, Path, Path], text: str) -> None:
    model = base(tmp_path / "m.safetensors", **{"adapterhub.recipe": text})
    assert odd(unmerge(model, [files[1]], tmp_path / "o.safetensors", architecture="sd1", check=False)) == []
