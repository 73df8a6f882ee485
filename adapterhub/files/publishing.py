"""A place to write in peace, beside the target, and the moment in which it becomes the target: whole, or not at all.

A writer holds a lock on what it has not published yet. Whatever lies unlocked beside a target under such a name was
left by a process that died, in whichever container or machine, and is removed by the next writer of that target.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from adapterhub.errors import OutputExists
from adapterhub.files.source import machine

_NAME_BYTES = 200
"""Bytes of the target's name that a temporary name repeats; the system allows 255 in all."""
_ATTEMPTS = 100
"""Times that somebody may take what was just made for stale."""
_EXCHANGE = 2
"""A flag of renameat2(2): swap two names in one step."""
_HERE = -100
"""AT_FDCWD: names relative to the working folder."""
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@contextmanager
def unpublished_file(target: Path) -> Iterator[tuple[Path, int]]:
    """A new locked file beside `target`, with its descriptor; it is gone afterwards unless it was published."""
    with _unpublished(target, _create_file) as claimed:
        yield claimed


@contextmanager
def unpublished_folder(target: Path) -> Iterator[tuple[Path, int]]:
    """A new locked folder beside `target`, with its descriptor."""
    with _unpublished(target, _create_folder) as claimed:
        yield claimed


def publish_file(temporary: Path, target: Path, *, force: bool) -> None:
    """Makes `temporary` the file `target`. OutputExists if something is there, unless `force`."""
    with machine("write", target):
        if force:
            os.replace(temporary, target)
        else:
            _publish_new(temporary, target)
        _sync_folder(target.parent)


def publish_folder(temporary: Path, target: Path, *, force: bool) -> None:
    """Makes `temporary` the folder `target`. OutputExists if something but an empty folder is there, unless `force`: then they
    are swapped, or, where the system cannot swap, every file takes the place of its old one.
    """
    with machine("write", target):
        if not (force and os.path.lexists(target)):
            _publish_new_folder(temporary, target)
        elif not _swap(temporary, target):
            _move_over(temporary, target)
        _sync_folder(target.parent)


@contextmanager
def kept(target: Path) -> Iterator[Callable[[], None]]:
    """Keeps the file `target` aside meanwhile. What is given puts it back; or, if nothing was there, removes what is now."""
    if not target.is_file():
        yield partial(target.unlink, missing_ok=True)
        return
    with machine("write", target):
        aside, descriptor = _claim(target, partial(_create_other, target))
    try:
        yield partial(os.replace, aside, target)
    finally:
        remove(aside)
        os.close(descriptor)


def remove(path: Path) -> None:
    """Removes a file, or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        import shutil

        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@contextmanager
def _unpublished(target: Path, create: Callable[[Path], int]) -> Iterator[tuple[Path, int]]:
    with machine("write", target):
        _remove_stale(target)
        path, descriptor = _claim(target, create)
    try:
        yield path, descriptor
    finally:
        remove(path)
        os.close(descriptor)


def _claim(target: Path, create: Callable[[Path], int]) -> tuple[Path, int]:
    """A new locked path. Another writer may take it for stale before it is locked: then the next name."""
    for _ in range(_ATTEMPTS):
        path = target.with_name(f"{_stem(target)}{secrets.token_hex(4)}.partial")
        try:
            descriptor = create(path)
        except FileNotFoundError:  # a folder, taken for stale before it was even open
            if target.parent.is_dir():
                continue
            raise
        if _lock(descriptor) is not False and path.exists():
            return path, descriptor
        os.close(descriptor)
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))  # a folder of the system's, in which nothing can be made


def _remove_stale(target: Path) -> None:
    pattern = re.compile(re.escape(_stem(target)) + r"[0-9a-f]{8}\.partial")
    for name in os.listdir(target.parent):
        if pattern.fullmatch(name):
            with suppress(OSError):
                _remove_unlocked(target.with_name(name))


def _remove_unlocked(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if _lock(descriptor):
            remove(path)
    finally:
        os.close(descriptor)


def _stem(target: Path) -> str:
    return f".{os.fsencode(target.name)[:_NAME_BYTES].decode('utf-8', 'ignore')}."


def _lock(descriptor: int) -> bool | None:
    """Whether the lock is ours now; None on a file system that has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _create_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)


def _create_other(file: Path, path: Path) -> int:
    """Another name for `file`, or another file that is the same."""
    try:
        os.link(file, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        import shutil

        shutil.copyfile(file, path)
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)


def _create_folder(path: Path) -> int:
    path.mkdir()
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def _publish_new(temporary: Path, target: Path) -> None:
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise OutputExists(target) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            raise OutputExists(target) from None
        os.rename(temporary, target)


def _publish_new_folder(temporary: Path, target: Path) -> None:
    try:
        os.rename(temporary, target)  # over nothing or an empty folder: rename(2) replaces no other with a folder
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        raise OutputExists(target) from None


def _swap(one: Path, other: Path) -> bool:
    """Swaps two names in one step; False where the system cannot."""
    import ctypes

    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    if not renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE):
        return True
    error = ctypes.get_errno()
    if error in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(error, os.strerror(error))


def _move_over(temporary: Path, target: Path) -> None:
    """File by file, for systems that cannot swap: every file is whole at any moment, the folder only at the end."""
    for folder, _, names in os.walk(temporary):
        place = target / os.path.relpath(folder, temporary)
        place.mkdir(exist_ok=True)
        for name in names:
            os.replace(Path(folder, name), place / name)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
