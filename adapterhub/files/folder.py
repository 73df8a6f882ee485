"""One folder, listed once: which of its names are files, and which of these hold a model."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from adapterhub.errors import MalformedFile, UsageError
from adapterhub.files.beside import document_in, inside, text_in
from adapterhub.files.containers import ANY, Opened, is_safetensors, open_source
from adapterhub.files.limits import Limits
from adapterhub.files.package import Problem
from adapterhub.files.source import Source, machine

WEIGHTS = (".safetensors", ".bin")
"""How weights of a well-known name end; where both are there, diffusers and PEFT take the first."""
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.\w+\Z")
INDEX = re.compile(r"(\.safetensors|\.bin)\.(\w+\.)?index(\.\w+)?\.json\Z")
_WORDS = frozenset({"safetensors", "bin", "index", "json"})
_TRAINING = re.compile(r"(optimizer|scheduler|sampler|scaler|training_args)(_\d+)?\.\w+\Z")
"""What accelerate and transformers save beside a model to go on training it (`accelerate/utils/constants.py`)."""


@dataclass
class Listing:
    """What a folder holds."""

    files: set[str] = field(default_factory=set)
    folders: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def sort_in(self, entry: os.DirEntry[str]) -> None:
        """Takes in what was found. OSError where the folder may be listed and not entered."""
        try:
            mode = entry.stat().st_mode
        except PermissionError:
            if not entry.is_symlink():
                raise
            mode = 0
        except OSError:  # a link to nothing, or in circles
            mode = 0
        if stat.S_ISREG(mode):
            self.files.add(entry.name)
        elif stat.S_ISDIR(mode):
            self.folders.append(entry.name)
        elif not entry.name.startswith("."):
            self.problems.append(Problem("warning", "skipped", entry.name, "neither a file nor a folder: not opened"))


class Folder:
    """A folder, listed when that is asked for; only regular files and links to such are in `files`, and what is neither file nor
    folder in `problems`. A folder that is not on this disk has its own `_listed`, `source`, `holds` and `part`. `variant` is
    the one that is asked for where weights are there in several; if `strict`, a folder without it is refused.
    """

    def __init__(self, path: Path, variant: str | None = None, *, strict: bool = True) -> None:
        self.path, self.variant, self.strict = path, variant, strict

    @property
    def files(self) -> set[str]:
        """The names of its files."""
        return self._listing.files

    @property
    def folders(self) -> list[str]:
        """The names of its folders, in order."""
        return self._listing.folders

    @property
    def contents(self) -> list[str]:
        """The names of its files, and of its folders with a slash."""
        return [*self.files, *(f"{name}/" for name in self.folders)]

    @property
    def problems(self) -> list[Problem]:
        """What is odd about it."""
        return self._listing.problems

    @cached_property
    def _listing(self) -> Listing:
        return self._listed()

    def _listed(self) -> Listing:
        found = Listing()
        with machine("list", self.path), os.scandir(self.path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                found.sort_in(entry)
        return found

    def part(self, name: str) -> Folder:
        """The folder `name` in it; itself without a name."""
        return Folder(self.path / name, self.variant, strict=self.strict) if name else self

    def source(self, name: str, by: Path | None = None) -> Source:
        """The file `name`, open, to which `by` (an index; the folder) refers. MalformedFile where it does not lie within."""
        return Source(inside(self.path, name, by or self.path))

    def holds(self, name: str, by: Path | None = None) -> bool:
        """Whether there is a file `name`, to which `by` refers."""
        return os.path.exists(inside(self.path, name, by or self.path))  # False where Path.exists raises

    def document(self, name: str, limits: Limits) -> Any:
        """The JSON document `name`; of a `.txt` its text."""
        return (text_in if name.endswith(".txt") else document_in)(self.source(name), limits)

    def open(self, name: str, limits: Limits, *, among: Collection[str] = ANY, by: Path | None = None) -> Opened:
        """The file of weights `name`: see `containers.open_source`. Neither its name nor that of what a link leads to may lie."""
        return open_source(self.source(name, by), limits, among=() if is_safetensors(name) else among)

    def models(self, suffixes: Collection[str]) -> list[str]:
        """The models whose weights end in one of `suffixes`: single files, and an index for each set of shards."""
        return sorted(name for name in self.files if not name.startswith(".") and _ending(name) in suffixes)

    def weights(self, stem: str) -> str | None:
        """The weights called `stem`, by the first ending of WEIGHTS that is there."""
        return next((stem + suffix for suffix in WEIGHTS if stem + suffix in self.files), None)

    def at_most_one(self, names: list[str], mend: str = "Give one of these files.") -> list[str]:
        """`names`. UsageError if there are several."""
        if len(names) > 1:
            raise UsageError(f"{self.path} holds several models: {listed(names)}", mend=mend)
        return names

    def missing(self, name: str, part: Folder) -> MalformedFile:
        """The refusal of a folder that lacks `name`, in its part `part`."""
        return MalformedFile(
            self.path, "missing-file", f"{name} is missing",
            mend=f"Get it too, or give a single file. Beside it lie: {listed(part.contents) or 'no files'}.",
        )  # fmt: skip


def listed(names: Iterable[str]) -> str:
    """Names for a message: escaped, in order, the first twelve."""
    names = sorted(names)
    return ", ".join(map(ascii, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def variant_of(name: str) -> str:
    """What stands in a name of weights, or of their index, between the words that all such names have; empty for none.
    Source: diffusers `utils/hub_utils.py` (`_add_variant`) and the older place, before `index`.
    """
    return ".".join(word for word in name.split(".")[1:] if word not in _WORDS)


def _ending(name: str) -> str:
    """How the weights end that a file holds or joins; empty for a shard, and for what goes with training."""
    if index := INDEX.search(name):
        return index[1]
    return "" if _SHARD.search(name) or _TRAINING.match(name) else os.path.splitext(name)[1]
