"""The folder of a training (`adapterhub train … -o FOLDER`): what of it is pushed, and what a card shows of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adapterhub.errors import UsageError
from adapterhub.hub.pictures import MOST

_MARKS = ("config.toml", "log.jsonl")
_INDEX = "model_index.json"


def resolved(path: Path, images: Sequence[Path | str]) -> tuple[Path, Sequence[Path | str]]:
    """Of the folder of a training its result and, if no images are given, its latest samples; whatever else as it is.

    UsageError where the training is not done.
    """
    if not path.is_dir() or (path / _INDEX).exists() or not all((path / mark).is_file() for mark in _MARKS):
        return path, images
    name = path.resolve().name
    named = [path / f"{name}.safetensors", path / name, path / f"{name}.pt"]
    others = sorted(
        (one for one in path.iterdir() if one.name not in ("class", "samples")),
        key=lambda one: (len(one.name), one.name),
    )
    result = next((one for one in (*named, *others) if _is_model(one)), None)
    if result is None:
        raise UsageError(
            f"{path} holds no result of its training yet", mend="adapterhub train … --resume goes on with it."
        )
    return result, images or sorted((path / "samples").glob("*.png"))[-MOST:]


def _is_model(path: Path) -> bool:
    if path.is_dir():
        return (path / _INDEX).is_file()
    return path.suffix in {".safetensors", ".pt"} and path.is_file()
