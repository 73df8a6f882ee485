"""How what was downloaded reaches the folder that it is for: whole or not at all, and never over what nobody agreed to lose."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from adapterhub.errors import MalformedFile, OutputExists, RefusedInput
from adapterhub.files import publishing
from adapterhub.files.source import machine

PIECE = 1 << 20


def copied(source: Path, target: Path, *, force: bool) -> None:
    """A copy of the file `source` as `target`."""
    with publishing.unpublished_file(target) as (temporary, descriptor):
        with machine("write", target), source.open("rb") as stream:
            for piece in iter(lambda: stream.read(PIECE), b""):
                write_all(descriptor, piece)
            os.fsync(descriptor)
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


def write_all(descriptor: int, piece: bytes) -> None:
    """All of `piece`, of which the system may take a part at a time."""
    view = memoryview(piece)
    while view:
        view = view[os.write(descriptor, view) :]
