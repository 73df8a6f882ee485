"""Trainings of each technique, small enough for a test."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adapterhub.documents import DreamBoothSettings, HypernetworkSettings, LoraSettings, TextualInversionSettings

SMALL: dict[str, Any] = {"resolution": 32, "steps": 4, "batch": 4, "sample_count": 0, "seed": 3}
TABLE: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "textual_inversion": (TextualInversionSettings, {"token": "<fox>", "initial_words": "cat", "vectors": 2, "captions": False}),
    "dreambooth": (DreamBoothSettings, {"prompt": "a photo of sks cat", "learning_rate": 1e-4}),
    "lora": (LoraSettings, {"prompt": "a photo of sks cat", "rank": 2, "learning_rate": 1e-2}),
    "hypernetwork": (HypernetworkSettings, {"prompt": "a photo of a cat", "learning_rate": 1e-3}),
}  # fmt: skip
TECHNIQUES = [name for name in TABLE if find_spec(f"adapterhub.train.{name}")]
COMMANDS = {name: name.replace("_", "-") for name in TABLE}
PRIOR = {"class_prompt": "a cat", "class_count": 2, "sample_steps": 2}
BUSY = {"snr_gamma": 5.0, "noise_offset": 0.1, "flip": True, "crop": "random", "caption_dropout": 0.3}
"""Everything that a step draws by chance."""


def settings(technique: str, base: Path, images: Path, output: Path, **changes: Any) -> Any:
    kind, own = TABLE[technique]
    return kind(base=str(base), images=str(images), output=str(output), **{**SMALL, **own, **changes})


def flags(technique: str, base: Path, images: Path, output: Path, **changes: Any) -> list[str]:
    """The same as a command line."""
    told = {"base": base, "images": images, "output": output, **SMALL, **TABLE[technique][1], **changes}
    words = ["train", COMMANDS[technique]]
    for name, value in told.items():
        spelled = name.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{spelled}"] if isinstance(value, bool) else [f"--{spelled}", str(value)]
    return words


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of everything that was made, but for pictures and what tells of this run."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in {".toml", ".jsonl", ".png"}}  # fmt: skip
