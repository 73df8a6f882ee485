"""How what was downloaded reaches the folder that it is for: whole or not at all, and never over what nobody agreed to lose."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from adapterhub.errors import MalformedFile, OutputExists, RefusedInput
from adapterhub.files import LIMITS, containers, publishing
from adapterhub.files.source import machine
from adapterhub.hub.transport import answer, pieces, require_good

PIECE = 1 << 20
MOST = 1 << 40
"""Bytes of a file whose size nobody tells."""


def copied(source: Path, target: Path, *, force: bool) -> None:
    """A copy of the file `source` as `target`."""
    with publishing.unpublished_file(target) as (temporary, descriptor):
        with machine("write", target), source.open("rb") as stream:
            _write(descriptor, iter(lambda: stream.read(PIECE), b""))
        publishing.publish_file(temporary, target, force=force)


def linked(source: Path, target: Path, *, force: bool) -> None:
    """The file `source` itself as `target`: by a hard link, or where another disk begins by a symbolic one."""
    real = source.resolve()
    made = target.with_name(f".{secrets.token_hex(8)}.partial") if force else target
    with machine("write", target):
        try:
            _link(real, made)
        except FileExistsError:
            raise OutputExists(target) from None
        if force:
            made.replace(target)


def _link(real: Path, target: Path) -> None:
    try:
        target.hardlink_to(real)
    except FileExistsError:
        raise
    except OSError:
        target.symlink_to(real)


def downloaded(
    url: str, target: Path, what: str, *, size: int | None, version: str | None, most: int | None,
    sha256: str | None, allow_http: bool, force: bool,
) -> tuple[int, str]:  # fmt: skip
    """Streams what is at `url` into `target`; gives its bytes and SHA-256. Refused above `most` bytes, where it is not of the
    `size`, `version` or `sha256` that were told, and where no reader of ours would open it.
    """
    with publishing.unpublished_file(target) as (temporary, descriptor), answer(url, allow_http=allow_http) as response:
        require_good(response, what)
        told = response.headers.get("Content-Length", "")
        length = int(told[:20]) if told.isdecimal() else size
        limit = min(most if most is not None else MOST, MOST)
        if length is not None and length > limit:
            raise too_large(what, length, limit)
        if (size is not None and length != size) or (version and response.headers.get("ETag", version) != version):
            raise MalformedFile(
                what, "changed-while-reading", "the file changed on the server", mend="Run the command again."
            )
        counter = _Counter(what, limit if length is None else length)
        with machine("write", target):
            _write(descriptor, map(counter.see, pieces(response, what)))
        if length is not None and counter.count != length:
            raise RefusedInput(
                f"{what} broke off after {counter.count} of {length} bytes", mend="Run the command again."
            )
        require_digest(what, counter.sha256, sha256)
        for source in containers.open_file(temporary, LIMITS, name=target.name).sources.values():
            source.close()
        publishing.publish_file(temporary, target, force=force)
        return counter.count, counter.sha256


class _Counter:
    """Counts and hashes what passes."""

    def __init__(self, what: str, limit: int) -> None:
        self.what, self.limit, self.count, self._digest = what, limit, 0, hashlib.sha256()

    def see(self, piece: bytes) -> bytes:
        """Passes a piece on. RefusedInput above the limit."""
        self.count += len(piece)
        if self.count > self.limit:
            raise too_large(self.what, self.count, self.limit)
        self._digest.update(piece)
        return piece

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def too_large(what: str, size: int, limit: int) -> RefusedInput:
    """The refusal of more bytes than are wanted, or were announced."""
    return RefusedInput(
        f"{what} has {size} bytes or more, above the limit of {limit}", mend="If that is meant, raise --max-size."
    )


def require_digest(what: str, found: str, wanted: str | None) -> None:
    """Raises MalformedFile unless the SHA-256 is that which was told."""
    if wanted is not None and found != wanted.lower():
        raise MalformedFile(what, "digest-differs", f"the file has the SHA-256 {found}, and not {wanted.lower()}",
                            mend="It is another file, or was damaged on the way: get it again.")  # fmt: skip


def _write(descriptor: int, parts: Iterator[bytes], write: Callable[[int, memoryview], int] = os.write) -> None:
    """All of `parts`, and onto the disk."""
    for part in parts:
        view = memoryview(part)
        while view:
            view = view[write(descriptor, view) :]
    os.fsync(descriptor)
