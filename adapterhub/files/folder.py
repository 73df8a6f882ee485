"""One folder, listed once: which of its names are files, and which of these hold a model."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterable
from pathlib import Path

from adapterhub.errors import MalformedFile, UsageError
from adapterhub.files.package import Problem
from adapterhub.files.source import machine

WEIGHTS = (".safetensors", ".bin")
"""How weights of a well-known name end; where both are there, diffusers and PEFT take the first."""
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.\w+\Z")
INDEX = re.compile(r"(\.safetensors|\.bin)\.(\w+\.)?index(\.\w+)?\.json\Z")
_TRAINING = re.compile(r"(optimizer|scheduler|sampler|scaler|training_args)(_\d+)?\.\w+\Z")
"""What accelerate and transformers save beside a model to go on training it (`accelerate/utils/constants.py`)."""


class Folder:
    """A folder; only regular files and links to such are in `files`, and what is neither file nor folder in `problems`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: set[str] = set()
        self.folders: list[str] = []
        self.problems: list[Problem] = []
        with machine("list", path), os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                self._sort_in(entry)

    def _sort_in(self, entry: os.DirEntry[str]) -> None:
        try:
            mode = entry.stat().st_mode
        except OSError:  # a link to nothing, or in circles
            mode = 0
        if stat.S_ISREG(mode):
            self.files.add(entry.name)
        elif stat.S_ISDIR(mode):
            self.folders.append(entry.name)
        elif not entry.name.startswith("."):
            self.problems.append(Problem("warning", "skipped", entry.name, "neither a file nor a folder: not opened"))

    def models(self, suffixes: Collection[str]) -> list[str]:
        """The models whose weights end in one of `suffixes`: single files, and an index for each set of shards."""
        return sorted(name for name in self.files if not name.startswith(".") and _ending(name) in suffixes)

    def weights(self, stem: str) -> str | None:
        """The weights called `stem`, by the first ending of WEIGHTS that is there."""
        return next((stem + suffix for suffix in WEIGHTS if stem + suffix in self.files), None)

    def at_most_one(self, names: list[str]) -> list[str]:
        """`names`. UsageError if there are several."""
        if len(names) > 1:
            raise UsageError(f"{self.path} holds several models: {listed(names)}", mend="Give one of these files.")
        return names

    def missing(self, name: str, part: Folder) -> MalformedFile:
        """The refusal of a folder that lacks `name`, in its part `part`."""
        return MalformedFile(
            self.path, "missing-file", f"{name} is missing",
            mend=f"Get it too, or give a single file. Beside it lie: {listed(part.files) or 'no files'}.",
        )  # fmt: skip


def listed(names: Iterable[str]) -> str:
    """Names for a message: escaped, in order, the first twelve."""
    names = sorted(names)
    return ", ".join(map(ascii, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _ending(name: str) -> str:
    """How the weights end that a file holds or joins; empty for a shard, and for what goes with training."""
    if index := INDEX.search(name):
        return index[1]
    return "" if _SHARD.search(name) or _TRAINING.match(name) else os.path.splitext(name)[1]
