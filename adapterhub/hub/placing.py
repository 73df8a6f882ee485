"""How what was downloaded reaches the folder that it is for: whole or not at all, and never over what nobody agreed to lose."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from adapterhub.errors import MachineFailure, MalformedFile, OutputExists, RefusedInput, UsageError
from adapterhub.files import publishing
from adapterhub.files.source import machine
from adapterhub.files.streaming import write_all

PIECE = 1 << 20


def placed(sources: Mapping[Path, Path], *, link: bool, force: bool) -> None:
    """Puts each file into its place, {place: file}, as a link or a copy: all of them, or all is as it was.

    A link is a hard one, a symbolic one where another disk begins, and a copy where the system makes neither.
    """
    with folders({target.parent for target in sources}), ExitStack() as stack:
        ready = [(target, stack.enter_context(_ready(source, target, link))) for target, source in sources.items()]
        with ExitStack() as undoing:
            for target, temporary in ready:
                undoing.callback(_put_back, target, _kept(target, stack), _identity(temporary))
                _publish(temporary, target, force=force)
            undoing.pop_all()


@contextmanager
def folders(wanted: Iterable[Path]) -> Iterator[None]:
    """The folders are there inside; those that had to be made are gone again if it fails."""
    made: list[Path] = []
    try:
        for folder in sorted(wanted):
            made += [one for one in (*reversed(folder.parents), folder) if not one.exists()]
            _make(folder)
        yield
    except BaseException:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
        raise


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(f"{folder} is there, and no folder", mend="Give another folder with -o.") from None
    except OSError as error:
        raise MachineFailure(f"cannot make the folder {folder}: {error.strerror or error}") from error


@contextmanager
def _ready(source: Path, target: Path, link: bool) -> Iterator[Path]:
    """The file beside its place, as it is to be there."""
    if link:
        made = _beside(target)
        try:
            if _linked(source.resolve(), made):
                yield made
                return
        finally:
            made.unlink(missing_ok=True)
    with publishing.unpublished_file(target) as (temporary, descriptor):
        with machine("write", target), source.open("rb") as stream:
            for piece in iter(lambda: stream.read(PIECE), b""):
                write_all(descriptor, piece)
            os.fsync(descriptor)
        yield temporary


def _linked(real: Path, made: Path) -> bool:
    """Whether a link could be made."""
    for way in (made.hardlink_to, made.symlink_to):
        with suppress(OSError):
            way(real)
            return True
    return False


def _publish(temporary: Path, target: Path, *, force: bool) -> None:
    if force or not temporary.is_symlink():
        publishing.publish_file(temporary, target, force=force)
        return
    with machine("write", target):
        try:
            target.symlink_to(temporary.readlink())
        except FileExistsError:
            raise OutputExists(target) from None


def _kept(target: Path, stack: ExitStack) -> Path | None:
    """What is at `target` now, by a second name until `stack` ends: so the place is never empty."""
    if not os.path.lexists(target):
        return None
    kept = _beside(target)
    stack.callback(kept.unlink, missing_ok=True)
    with machine("keep", target):
        try:
            os.link(target, kept, follow_symlinks=False)
        except OSError:  # a system without links
            shutil.copy2(target, kept, follow_symlinks=False)
    return kept


def _put_back(target: Path, kept: Path | None, ours: object) -> None:
    """What was kept; where there was nothing, takes away what is ours, and nothing else that came there meanwhile."""
    if kept is not None:
        kept.replace(target)
    elif os.path.lexists(target) and _identity(target) == ours:
        target.unlink()


def _identity(path: Path) -> object:
    """Which file it is; of a symbolic link where it leads."""
    found = path.lstat()
    return path.readlink() if path.is_symlink() else (found.st_dev, found.st_ino)


def _beside(target: Path) -> Path:
    return target.with_name(f".{secrets.token_hex(8)}.partial")


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
