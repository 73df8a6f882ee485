"""Trees of files for tests: made by name, and looked at by name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from adapterhub.registry.places import Found, Trouble, walk


def plant(root: Path, *names: str) -> Path:
    """Makes a file of three bytes for each of `names` below `root`; a name that ends in a slash is a folder."""
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"abc")
    return root


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def link(path: Path, target: Path | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


def found(*paths: Path) -> list[Found]:
    """What a walk finds, which has no trouble."""
    things = list(walk(paths))
    assert [thing for thing in things if isinstance(thing, Trouble)] == []
    return [thing for thing in things if isinstance(thing, Found)]


def troubles(*paths: Path) -> list[Trouble]:
    return [thing for thing in walk(paths) if isinstance(thing, Trouble)]


def names(things: Iterable[Found], root: Path) -> list[str]:
    """The paths of what was found, relative to `root`."""
    return [str(thing.path.relative_to(root)) for thing in things]


def files(thing: Found) -> list[str]:
    """The files of one thing, relative to it, or to the folder that it lies in."""
    folder = thing.path if thing.path.is_dir() else thing.path.parent
    return [str(file.path.relative_to(folder)) for file in thing.files]
