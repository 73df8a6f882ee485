"""Where something may be written: never over an input, never over what nobody agreed to lose."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from adapterhub.errors import OutputExists, UsageError
from adapterhub.files.source import machine


def require_file_target(path: Path, sources: Collection[Path], *, force: bool) -> None:
    """Raises UsageError unless the file `path` may be written: it is not there, or `force` and it is a file."""
    if _may_be_made(path, sources, force=force):
        return
    if not path.is_symlink() and not path.is_file():
        raise UsageError(f"{path} is no file, and is not replaced by one", mend="Give another output path.")


def require_folder_target(path: Path, names: Collection[str], sources: Collection[Path], *, force: bool) -> None:
    """Raises UsageError unless the folder `path` may be written: it is not there, or empty, or `force` and it holds no more
    than `names`, which are about to be written.
    """
    if _may_be_made(path, sources, force=force or is_empty_folder(path)):
        return
    if path.is_symlink() or not path.is_dir():
        raise UsageError(f"{path} is no folder, and is not replaced by one", mend="Give another output path.")
    if strangers := sorted(_content(path) - {*names, *_folders(names)}):
        raise UsageError(
            f"{path} holds what would be lost: {', '.join(map(ascii, strangers[:5]))}",
            mend="Give another output path, or move these files away.",
        )


def _may_be_made(path: Path, sources: Collection[Path], *, force: bool) -> bool:
    """True where nothing is at `path`, False where `force` may replace what is; raises for everything else."""
    _require_place(path)
    if not os.path.lexists(path):
        return True
    _require_no_source(path, sources)
    if not force:
        raise OutputExists(path)
    return False


def _require_place(path: Path) -> None:
    if path.name in ("", ".."):
        raise UsageError(f"{path} names no file", mend="Give a file name, or a folder that is to be made.")
    if not os.path.isdir(path.parent):
        raise UsageError(f"{path.parent} is no folder that exists", mend="Make it first, or give another output path.")


def _require_no_source(path: Path, sources: Collection[Path]) -> None:
    with machine("look up", path):
        if any(_covers(path, source) for source in sources if os.path.exists(source)):
            raise UsageError(f"{path} is read: an input is never overwritten", mend="Give another output path.")


def _covers(path: Path, source: Path) -> bool:
    """Whether `source` is `path`, by whatever name, or lies in it."""
    real = source.resolve()
    return path.resolve() in (real, *real.parents) or (os.path.exists(path) and os.path.samefile(source, path))


def is_empty_folder(path: Path) -> bool:
    """Whether `path` is a folder, and no link to one, with nothing in it."""
    with machine("list", path):
        return path.is_dir() and not path.is_symlink() and not os.listdir(path)


def _content(path: Path) -> set[str]:
    found = set()
    with machine("list", path):
        for folder, folders, files in os.walk(path):
            found |= {os.path.relpath(os.path.join(folder, name), path) for name in folders + files}
    return found


def _folders(names: Collection[str]) -> set[str]:
    return {str(folder) for name in names for folder in PurePosixPath(name).parents}
