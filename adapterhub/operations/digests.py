"""What identifies a file, or several that are one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from adapterhub import files
from adapterhub.files import Package


def digest_of(package: Package, hashed: Callable[[Path], str] = files.cached_sha256) -> str:
    """The sha256 of a file; of several files that of their list, `sha256  name` a line, as sha256sum prints it."""
    return listed({name: hashed(path) for name, path in package.paths.items()})


def listed(digests: Mapping[str, str]) -> str:
    """The digest of files by name; of several the sha256 of their list."""
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def digest_at(path: Path) -> str:
    """`digest_of` what lies there, every byte read."""
    with files.read(path) as package:
        return digest_of(package, files.sha256)
