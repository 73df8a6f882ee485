"""`sync`: the files of a lock file, checked, and put there from any file that the registry knows by the same sha256.

What is there and differs is left alone. Nothing is fetched from anywhere: what is in no file is told, with where it could be had.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from adapterhub import files
from adapterhub.documents import Locked, Sync, Synced
from adapterhub.errors import AdapterhubError, OutputExists, RefusedInput
from adapterhub.files.progress import tell
from adapterhub.files.publishing import publish_file, unpublished_file
from adapterhub.files.source import PIECE, Source, machine
from adapterhub.registry.database import exists, place, reading, restored
from adapterhub.registry.lock import NAME, read


def sync(
    lock: Path | str = NAME, *, check: bool = False, target: Path | str | None = None, link: bool = False,
    db: Path | str | None = None,
) -> Sync:  # fmt: skip
    """Makes the folder of `lock`, or `target`, hold every file that it names, unless `check`: then nothing is written.

    With `link` what can be a hard link is one. RefusedInput, before anything is written, for a lock file with a path that leaves
    the folder, by itself or through a link that lies there.
    """
    lock = place(lock)
    folder = lock.parent if target is None else place(target)
    wanted = read(lock).files
    for one in wanted:
        _require_inside(folder, one)
    tell(expected=sum(one.size for one in wanted))
    return Sync(folder=str(folder), files=[_synced(one, folder, check=check, link=link, db=db) for one in wanted])


def _require_inside(folder: Path, one: Locked) -> None:
    parent = (folder / one.path).parent
    if not parent.resolve().is_relative_to(folder.resolve()):
        raise RefusedInput(
            f"{one.path}: a link leads out of {folder}", mend="Remove the link, or give another folder with -o."
        )


def _synced(one: Locked, folder: Path, *, check: bool, link: bool, db: Path | str | None) -> Synced:
    path = folder / one.path
    if os.path.lexists(path):
        there = _is_that(path, one)
        tell(one.size)
        return Synced(path=one.path, state="there" if there else "different", sources={} if there else one.sources)
    source = None if check else _restored_from(one, path, link, db)
    return Synced(path=one.path, state="restored" if source else "missing", source=None if source is None else str(source),
                  sources={} if source else one.sources)  # fmt: skip


def _is_that(path: Path, one: Locked) -> bool:
    try:
        return path.stat().st_size == one.size and files.sha256(path) == one.sha256
    except (AdapterhubError, OSError):
        return False


def _restored_from(one: Locked, path: Path, link: bool, db: Path | str | None) -> Path | None:
    """The file that `path` was made of; None where no file has these bytes any more."""
    for candidate in _candidates(one, db):
        try:
            source = candidate.resolve(strict=True)
            with machine("write", path):
                path.parent.mkdir(parents=True, exist_ok=True)
            if (link and _linked(source, path, one)) or _copied(source, path, one):
                tell(one.size)
                return candidate
        except OutputExists:
            raise
        except (RefusedInput, FileNotFoundError, NotADirectoryError, PermissionError):
            continue
    return None


def _candidates(one: Locked, db: Path | str | None) -> Iterator[Path]:
    """The files that are said to have these bytes."""
    if not exists(db):
        return
    with reading(db) as connection:
        rows = connection.execute(
            "SELECT path FROM hashes JOIN files ON files.id = file_id WHERE value = ? AND name = 'sha256' AND size = ? "
            "ORDER BY files.id", (one.sha256, one.size),
        ).fetchall()  # fmt: skip
    yield from (path for row in rows if (path := restored(row[0])).is_file())


def _linked(source: Path, path: Path, one: Locked) -> bool:
    if not _is_that(source, one):
        return False
    try:
        os.link(source, path)
    except FileExistsError:
        raise OutputExists(path) from None
    except OSError:  # another file system, or one without links
        return False
    return True


def _copied(source: Path, path: Path, one: Locked) -> bool:
    """Whether the bytes that were copied are those; a copy of others gets no name."""
    opened, digest = Source(source), hashlib.sha256()
    try:
        if opened.size != one.size:
            return False
        with unpublished_file(path) as (temporary, descriptor), machine("write", path):
            with os.fdopen(descriptor, "wb", closefd=False) as out:
                for at in range(0, opened.size, PIECE):
                    piece = opened.read(at, min(PIECE, opened.size - at))
                    digest.update(piece)
                    out.write(piece)
            if digest.hexdigest() != one.sha256:
                return False
            os.fsync(descriptor)
            publish_file(temporary, path, force=False)
    finally:
        opened.close()
    return True
