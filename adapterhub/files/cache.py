"""Digests that were computed before: of large files, which take a look at the file then instead of a reading of it, and others.

One small file each in the user's cache folder, or in $ADAPTERHUB_CACHE; none if that is empty. The SHA-256 of a file is called
by device, inode, size and both times of the file. The time of the last change of the inode cannot be set by a program, so that
content cannot change and all of these stay; a file that was changed less than two seconds ago is not remembered, for a clock
may tick that slowly.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from adapterhub.files.digests import sha256
from adapterhub.files.source import machine

WORTHWHILE = 64 << 20
"""Bytes below which hashing is quicker than any book-keeping is worth."""
_SETTLED_NS = 2_000_000_000
_DIGEST = re.compile("[0-9a-f]{64}")


def cached_sha256(path: Path) -> str:
    """`sha256` of the file, remembered if it is large."""
    with machine("read", path):
        before = os.stat(path)
    place = _place(before) if before.st_size >= WORTHWHILE else None
    if place is None:
        return sha256(path)
    if known := _known(place):
        return known
    found = sha256(path)
    with suppress(OSError):
        if _name(os.stat(path)) == place.name and time.time_ns() - before.st_ctime_ns > _SETTLED_NS:
            _remember(place, found)
    return found


def is_cached(path: Path) -> bool:
    """Whether the digest of the file is remembered."""
    place = _place(os.stat(path))
    return place is not None and _known(place) is not None


def cached_digest(kind: str, name: str, found: Callable[[], str]) -> str:
    """What `found` gives, 64 hex digits that follow from `name` alone, a file's name; remembered."""
    place = _folder(kind)
    if place is None:
        return found()
    known = _known(place / name)
    if known is None:
        known = found()
        _remember(place / name, known)
    return known


def is_cached_digest(kind: str, name: str) -> bool:
    """Whether it is remembered."""
    place = _folder(kind)
    return place is not None and _known(place / name) is not None


def _known(place: Path) -> str | None:
    with suppress(OSError, UnicodeDecodeError):
        if _DIGEST.fullmatch(known := place.read_text("ascii")):
            return known
    return None


def _place(stat: os.stat_result) -> Path | None:
    folder = _folder("sha256")
    return None if folder is None else folder / _name(stat)


def _folder(kind: str) -> Path | None:
    given = os.environ.get("ADAPTERHUB_CACHE")
    if given is None:
        from platformdirs import user_cache_path

        return user_cache_path("adapterhub", appauthor=False) / kind
    return Path(given) / kind if given else None


def _name(stat: os.stat_result) -> str:
    return "-".join(
        f"{number:x}" for number in (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    )


def _remember(place: Path, digest: str) -> None:
    """A cache that cannot be written is none."""
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f".{uuid4().hex}")
        try:
            temporary.write_text(digest, "ascii")
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)
