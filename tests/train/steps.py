"""What tests of trainers share: a training whose parts stay at hand, what is in a base, and a run that is killed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
from PIL import Image

from adapterhub.documents import Training, TrainingSettings
from adapterhub.train import samples
from adapterhub.train.base import Base

SHORT: Mapping[str, Any] = {"steps": 3, "batch": 2, "resolution": 32, "sample_count": 0, "learning_rate": 0.01}
"""Settings of a training that takes no time."""


def digests(base: Base, without: str = "") -> dict[str, str]:
    """The sha256 of every tensor of a base, less those whose names end with `without`; a table that is extended counts as itself."""
    return {
        f"{part}.{name.replace('.table.', '.')}": hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
        for part, module in base.modules().items()
        for name, value in module.state_dict().items()
        if not (without and name.endswith(without))
    }


def killed_and_resumed(trainer: ModuleType, settings: TrainingSettings) -> Training:
    """The result of a training that was killed in its last step and went on from its last state (with `save_every` 1)."""

    class Killed(Exception):
        pass

    def kill(done: Any) -> None:
        if done.step == settings.steps:
            raise Killed

    try:
        trainer.train(settings, watch=kill)
    except Killed:
        return trainer.train(settings, resume=True)
    raise AssertionError("the training was not killed")


def loaded(folder: Path) -> Any:
    """diffusers' pipeline of a folder, with the scheduler that samples are drawn by."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(str(folder))
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def same_pictures(path: Path, pipe: Any, prompt: str, settings: TrainingSettings, folder: Path) -> bool:
    """Whether a sheet of samples is what `pipe` draws, to the last bit of every pixel."""
    seeds = list(range(settings.sample_count))
    row = samples.drawn(
        pipe, [prompt] * len(seeds), seeds, steps=settings.sample_steps, guidance=settings.guidance, side=32
    )
    theirs = samples.grid([(prompt, row)], folder / "theirs.png")
    with Image.open(path) as ours, Image.open(theirs) as others:
        return ours.tobytes() == others.tobytes()
