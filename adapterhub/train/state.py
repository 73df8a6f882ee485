"""A training that was stopped: what it takes to go on as if it had not been."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapterhub.documents import TrainingSettings
from adapterhub.errors import MachineFailure, MalformedFile, UsageError

_PREFIX = "state-"
_TELLING = "state.json"
FREE = frozenset({"output", "micro_batch", "save_every", "sample_every", "sample_prompts", "sample_count", "sample_steps",
                  "guidance", "trackers", "gradient_checkpointing", "images", "base", "class_images"})  # fmt: skip
"""Settings that may change on the way: they change nothing in what is trained, or (paths) are told by what lies there."""


@dataclass(frozen=True)
class State:
    """What was trained, after `step` steps; `rest` is whatever torch.load(weights_only=True) takes."""

    step: int
    trained: Mapping[str, Tensor]
    rest: Mapping[str, Any]


def save(folder: Path, state: State, settings: TrainingSettings, data: Mapping[str, Any]) -> None:
    """Writes the state whole or not at all, and only then removes the one before it."""
    place, temporary = folder / f"{_PREFIX}{state.step:08}", folder / f".{_PREFIX}{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        save_file(dict(state.trained), temporary / "trained.safetensors")
        torch.save(dict(state.rest), temporary / "optimizer.pt")
        told = {"step": state.step, "settings": _told(settings), "data": dict(data)}
        (temporary / _TELLING).write_text(json.dumps(told, indent=1), "utf-8")
        for path in (*temporary.iterdir(), temporary):
            _flush(path)
        shutil.rmtree(place, ignore_errors=True)
        temporary.rename(place)
        _flush(folder)
    except (
        OSError,
        RuntimeError,
        SafetensorError,
    ) as error:  # torch and safetensors have their own errors of a full disk
        shutil.rmtree(temporary, ignore_errors=True)
        raise MachineFailure(f"{place}: the state cannot be written: {getattr(error, 'strerror', None) or error}",
                             mend="Make room, and go on with --resume: the state before it is still there.") from error  # fmt: skip
    for other in found(folder):
        if other != place:
            shutil.rmtree(other, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def found(folder: Path) -> list[Path]:
    """The states in a folder, the earliest first."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if (path / _TELLING).is_file())


def restored(folder: Path, settings: TrainingSettings, data: Mapping[str, Any]) -> State | None:
    """The last state in `folder`; None where there is none. UsageError where it is that of another training."""
    if not (states := found(folder)):
        return None
    try:
        told = json.loads((states[-1] / _TELLING).read_text("utf-8"))
        rest = torch.load(states[-1] / "optimizer.pt", weights_only=True, map_location="cpu")
        state = State(int(told["step"]), load_file(states[-1] / "trained.safetensors"), rest)
        then = {**told["settings"], **{f"the {name}": value for name, value in told["data"].items()}}
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
        EOFError,
        UnpicklingError,
        SafetensorError,
    ) as error:
        raise MalformedFile(states[-1], "state", f"the state is damaged: {error}",
                            mend="Remove it; --resume then goes on from the one before, if there is one, or begins anew.") from error  # fmt: skip
    now = {**_told(settings), **{f"the {name}": value for name, value in json.loads(json.dumps(dict(data))).items()}}
    if other := sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name)):
        raise UsageError(f"{states[-1]} is of a training with other settings: {', '.join(other)}",
                         mend="Give the same settings, or begin anew in another folder.")  # fmt: skip
    return state


def remove(folder: Path) -> None:
    """Removes the states of a training that is done."""
    for path in found(folder):
        shutil.rmtree(path, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Removes what a killed run left of a state that it was writing."""
    for path in folder.glob(f".{_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)


def _told(settings: TrainingSettings) -> dict[str, Any]:
    return {name: value for name, value in settings.model_dump(mode="json").items() if name not in FREE}
