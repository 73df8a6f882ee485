"""A file's header overwritten where it stands, so that a crash at any moment leaves the old one, the new one, or what the next
edit finishes.

The journal, a hidden file beside it, holds both headers while one is written over the other. A write that was cut off, by
a kill or by the power, leaves bytes each of which is the old or the new one: that is how a journal is known to belong to what
lies there, even if the file was copied, or replaced by another since. All headers are as long as the old, so that the data
behind it is never written.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from adapterhub.errors import MachineFailure
from adapterhub.files.limits import FORMAT_HEADER_BYTES
from adapterhub.files.safetensors import PREFIX
from adapterhub.files.source import machine
from adapterhub.files.streaming import write_all, write_at

_MAGIC = b"adapterhub header journal 1\n"
_NAME_BYTES = 200
"""Bytes of the file's name that the journal's repeats; the system allows 255."""
_MOST = len(_MAGIC) + 2 * (PREFIX + FORMAT_HEADER_BYTES)


def journal_of(path: Path) -> Path:
    """Where the journal of the file at `path` lies, once links are followed."""
    real = Path(os.path.realpath(path))
    return real.with_name(f".{os.fsencode(real.name)[:_NAME_BYTES].decode('utf-8', 'ignore')}.header-journal")


def overwrite(path: Path, descriptor: int, old: bytes, new: bytes) -> None:
    """Writes `new` over `old`, both the length and the header that begin the file behind `descriptor`."""
    assert len(old) == len(new)
    journal = journal_of(path)
    with machine("write", path):
        _keep(journal, old, new)
        try:
            _put(descriptor, new)
            if _begin(descriptor, len(new)) != new:
                raise MachineFailure(f"{path}: what was written does not read back", mend="Look at the disk.")
        except BaseException:
            _put(descriptor, old)  # if that fails too, the journal stays
            _forget(journal)
            raise
        _forget(journal)


def finish(path: Path, descriptor: int) -> bool:
    """Finishes an edit of the file that was cut off, if there was one, and removes its journal."""
    journal = journal_of(path)
    with machine("read", journal):
        found = _kept(journal)
    if found is None:
        return False
    old, new = found
    with machine("write", path):
        there = _begin(descriptor, len(new))
        torn = there not in (old, new) and _is_mixed(there, old, new)
        if torn:
            _put(descriptor, new)
        _forget(journal)
    return torn


def _put(descriptor: int, header: bytes) -> None:
    write_at(descriptor, header, 0)
    os.fsync(descriptor)


def _begin(descriptor: int, length: int) -> bytes:
    parts: list[bytes] = []
    at = 0
    while at < length and (part := os.pread(descriptor, length - at, at)):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def _is_mixed(there: bytes, old: bytes, new: bytes) -> bool:
    return len(there) == len(old) and all(byte in pair for byte, *pair in zip(there, old, new, strict=True))


def _keep(journal: Path, old: bytes, new: bytes) -> None:
    descriptor = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        write_all(descriptor, b"".join((_MAGIC, old, new)))
        os.fsync(descriptor)
        _sync(journal.parent)
    except BaseException:
        _forget(journal)
        raise
    finally:
        os.close(descriptor)


def _kept(journal: Path) -> tuple[bytes, bytes] | None:
    """Old and new header; None where there is no journal. One that was not whole yet is removed: nothing was overwritten."""
    try:
        descriptor = os.open(journal, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        size = os.fstat(descriptor).st_size
        content = _begin(descriptor, size) if size <= _MOST else b""
    finally:
        os.close(descriptor)
    half = (len(content) - len(_MAGIC)) // 2
    old, new = content[len(_MAGIC) :][:half], content[len(_MAGIC) :][half:]
    count = int.from_bytes(old[:PREFIX], "little")
    if content.startswith(_MAGIC) and len(old) == len(new) == PREFIX + count and old[:PREFIX] == new[:PREFIX]:
        return old, new
    _forget(journal)
    return None


def _forget(journal: Path) -> None:
    with suppress(FileNotFoundError):
        os.unlink(journal)
    with suppress(OSError):
        _sync(journal.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
