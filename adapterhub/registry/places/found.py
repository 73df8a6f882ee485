"""What looking for files tells: what was found, what stood in the way, and what an application's settings say."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from adapterhub.adapter import Kind

Told = Mapping[str, str | list[str]]
NOTHING: Told = {}


class OnDisk(NamedTuple):
    """One file: where it is, and what says whether it is the same as before. Hard links share device and inode."""

    path: Path
    device: int
    inode: int
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Found:
    """What may be an adapter or a model, by its name: a file, an index of shards, or a folder that is one thing.

    `path` is what `adapterhub.files.read` takes, with links as they are; a name that is no UTF-8 has surrogates in it.
    `hint` is the kind that `application` keeps there. `told` are claims, none of them checked: of the database of InvokeAI
    (name, type, base, description, trigger_phrases, hash, source), of a Hugging Face cache (repository, revision, sha256).
    """

    path: Path
    files: tuple[OnDisk, ...]
    application: str | None = None
    hint: Kind | None = None
    told: Told = field(default_factory=lambda: NOTHING)


@dataclass(frozen=True, slots=True)
class Trouble:
    """What could not be looked at or believed."""

    path: Path
    reason: str


class Place(NamedTuple):
    """A folder, or a file, in which an application keeps things of a kind, or of any."""

    path: Path
    kind: Kind | None


Keeps = Mapping[Kind | None, tuple[str, ...]]
"""The folders of an application by what it keeps in them, relative to its root."""


class Entry(NamedTuple):
    """What an application says of one file or folder."""

    kind: Kind | None
    told: Told


@dataclass(slots=True)
class Settings:
    """What the settings of an application add: places, what they say of files by absolute path, and the paths of what is of no
    kind that adapterhub knows and is left alone.
    """

    places: list[Place] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)
    troubles: list[Trouble] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Application:
    """An application that is installed in `root`, and where it keeps adapters and models: those places that are there.

    `entries` are what it says of files and folders by absolute path; `others` those of kinds that adapterhub does not know.
    """

    name: str
    root: Path
    places: tuple[Place, ...]
    entries: Mapping[str, Entry] = field(default_factory=dict)
    others: frozenset[str] = frozenset()
    troubles: tuple[Trouble, ...] = ()


def on_disk(path: str) -> OnDisk | Trouble:
    """The regular file at `path`, links followed."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        return trouble(path, error)
    if not stat.S_ISREG(status.st_mode):
        return Trouble(Path(path), "neither a file nor a folder: not opened")
    return OnDisk(Path(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def trouble(path: str | Path, error: OSError | ValueError) -> Trouble:
    """What the system said of `path`; of a link that leads nowhere, that it does."""
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        return Trouble(Path(path), "a link to nothing")
    return Trouble(Path(path), getattr(error, "strerror", None) or str(error))
