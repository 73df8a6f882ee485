"""edit_header: the text fields of a safetensors file changed in place where its header has room, by a streaming rewrite elsewhere."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from adapterhub.errors import RefusedInput, UsageError
from adapterhub.files import journal, publishing
from adapterhub.files.containers import open_file
from adapterhub.files.header import HeaderText, cached_blob, header_of, read_header, with_metadata
from adapterhub.files.limits import LIMITS, Limits
from adapterhub.files.package import File
from adapterhub.files.safetensors_writing import write_unhashed
from adapterhub.files.source import Source, machine

Change = Callable[[Mapping[str, str]], Mapping[str, str]]
"""What gives the new fields for the old."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells one state of a file from another."""

    device: int
    inode: int
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Edit:
    """The header before and after; `in_place` is None where there was nothing to write. `finished` says that an edit that
    was cut off came first.
    """

    old: HeaderText
    new: HeaderText
    was: Stamp
    now: Stamp
    links: int
    in_place: bool | None = None
    finished: bool = False


def edit_header(path: Path, change: Change, *, limits: Limits = LIMITS) -> Edit:
    """Changes the fields of the file at `path`; its tensors stay as they are, byte for byte.

    A link is followed, and its target edited; other hard links to it show an edit in place too. Refuses files of a Hugging Face
    cache (RefusedInput), and one that another process edits (UsageError).
    """
    read_header_or_journal(path, limits)
    _require_own(path)
    with _locked(path) as descriptor:
        finished = journal.finish(path, descriptor)
        source = Source(path)
        try:
            return replace(_edit(path, source, descriptor, change, limits), finished=finished)
        finally:
            source.close()


def read_header_or_journal(path: Path, limits: Limits) -> None:
    """Refuses what is no safetensors file before anything is opened to be written."""
    if not os.path.lexists(journal.journal_of(path)):
        read_header(path, limits=limits)


def _require_own(path: Path) -> None:
    if cached_blob(path):
        raise RefusedInput(
            f"{path} lies in a Hugging Face cache, whose files are shared and called by what is in them",
            mend="Copy it to a place of your own and edit the copy: cp -L, or adapterhub pull -o.",
        )


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The file, open to be written and locked, if it is still what has that name."""
    with machine("write", path):
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{path} is being edited by another process", mend="Try again when it is done.") from None
        except OSError:  # a file system without locks
            pass
        with machine("read", path):
            if not os.path.samestat(os.fstat(descriptor), os.stat(path)):
                raise UsageError(f"{path} was replaced by another process", mend="Try again.")
        yield descriptor
    finally:
        os.close(descriptor)


def _edit(path: Path, source: Source, descriptor: int, change: Change, limits: Limits) -> Edit:
    old = header_of(source, limits)
    was = os.fstat(descriptor)
    done = Edit(old, old, _stamp(was), _stamp(was), was.st_nlink)
    metadata = dict(change(old.metadata))
    if metadata == dict(old.metadata):
        return done
    whole, fits = with_metadata(old, metadata, limits=limits)
    source.ensure_unchanged()
    if fits:
        journal.overwrite(path, descriptor, len(old.raw).to_bytes(8, "little") + old.raw, whole)
    else:
        _rewrite(path, whole, was, limits)
    new = read_header(path, limits=limits)
    with machine("read", path):
        return replace(done, new=new, now=_stamp(os.stat(path)), in_place=fits)


def _rewrite(path: Path, head: bytes, was: os.stat_result, limits: Limits) -> None:
    """The same data behind a longer header, in a new file that takes the place of the old; links to it stay links."""
    real = Path(os.path.realpath(path))
    opened = open_file(real, limits)
    try:
        file = File(opened.file.tensors, head=head, in_given_order=True)
        with publishing.unpublished_file(real) as (temporary, descriptor):
            with machine("write", path):
                write_unhashed([(file, descriptor)])
                with suppress(OSError):  # only root may give a file away
                    os.fchown(descriptor, was.st_uid, was.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(was.st_mode))
                os.fsync(descriptor)
            for source in opened.sources.values():
                source.ensure_unchanged()
            publishing.publish_file(temporary, real, force=True)
    finally:
        for source in opened.sources.values():
            source.close()


def _stamp(found: os.stat_result) -> Stamp:
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
