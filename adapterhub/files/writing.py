"""write: a package onto the disk, whole or not at all, one tensor at a time."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from adapterhub.files import publishing
from adapterhub.files.beside import leaves
from adapterhub.files.package import DIRECTORY, File, Package
from adapterhub.files.safetensors import in_order, render_header, shown
from adapterhub.files.source import PIECE, machine
from adapterhub.files.streaming import Hasher, Stream, write_all
from adapterhub.files.targets import require_file_target, require_folder_target
from adapterhub.tensors import LazyTensor

DIGEST = "0" * 64
"""Stands in metadata for the SHA-256 of the bytes after the header, which is known only when they are written."""
_NO_ALLOCATION = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)

Tensors = Sequence[tuple[str, LazyTensor]]


def write(
    package: Package,
    path: Path,
    *,
    force: bool = False,
    hashed: Collection[str] = (),
    sources: Collection[Path] = (),
    prove: Callable[[Path], None] | None = None,
    reread: bool = True,
) -> Mapping[str, str | None]:
    """Writes `package` to the file or, if its container is a directory, the folder `path`; gives {name: SHA-256} of
    the tensor files. Where `hashed` fields change the header after the data, that takes a second reading: None without
    `reread`.

    `hashed` names the metadata fields whose DIGEST is replaced by the SHA-256 of the written data. `force` replaces
    what is there: a file, or a folder that holds nothing but what is written into it. Neither the package's own files
    nor `sources` are ever overwritten. `prove` is given what was written, under another name, before it becomes `path`,
    and stops that by raising. Whatever goes wrong, `path` is as it was before.

    Raises OutputExists, UsageError, MachineFailure, and ValueError for tensors that do not give what they promise.
    """
    wish = _Wish(force, hashed, {*package.paths.values(), *sources}, prove or _unproved, reread)
    if package.container == DIRECTORY:
        return _write_folder(package, Path(path), wish)
    return _write_single(package, Path(path), wish)


class _Wish(NamedTuple):
    """How `write` was asked to write."""

    force: bool
    hashed: Collection[str]
    inputs: Collection[Path]
    prove: Callable[[Path], None]
    reread: bool


def _unproved(path: Path) -> None:
    """Nobody asked for a proof."""


def _write_single(package: Package, path: Path, wish: _Wish) -> Mapping[str, str | None]:
    require_file_target(path, wish.inputs, force=wish.force)
    with publishing.unpublished_file(path) as (temporary, descriptor):
        with machine("write", path):
            digest = _write_file(package.only, descriptor, wish)
        wish.prove(temporary)
        publishing.publish_file(temporary, path, force=wish.force)
    return {path.name: digest}


def _write_folder(package: Package, path: Path, wish: _Wish) -> Mapping[str, str | None]:
    names = [*package.files, *package.documents]
    if bad := [name for name in names if leaves(name)]:
        raise ValueError(f"{bad} lead out of the folder")
    require_folder_target(path, names, wish.inputs, force=wish.force)
    with publishing.unpublished_folder(path) as (temporary, _):
        digests: dict[str, str | None] = {}
        with machine("write", path):
            for name, file in package.files.items():
                with _new_file(temporary / name) as descriptor:
                    digests[name] = _write_file(file, descriptor, wish)
            for name, document in package.documents.items():
                with _new_file(temporary / name) as descriptor:
                    _write_document(document, descriptor)
        wish.prove(temporary)
        require_folder_target(path, names, wish.inputs, force=wish.force)
        publishing.publish_folder(temporary, path, force=wish.force)
    return digests


def _write_file(file: File, descriptor: int, wish: _Wish) -> str | None:
    """Writes a file in safetensors' own order; gives its SHA-256."""
    tensors = in_order(file.tensors)
    pending = [name for name in wish.hashed if DIGEST in file.metadata.get(name, "")]
    header = render_header(tensors, file.metadata)
    _allocate(descriptor, len(header) + sum(tensor.nbytes for _, tensor in tensors))
    with Hasher() as hasher:
        stream = Stream(descriptor, hasher)
        if pending:
            write_all(descriptor, header)  # not hashed yet: it depends on the hash of what follows
        else:
            stream.put(header)
        for name, tensor in tensors:
            _copy(name, tensor, stream)
        stream.flush()
        digest: str | None = hasher.hexdigest()
    if pending:
        true = {name: file.metadata[name].replace(DIGEST, str(digest)) for name in pending}
        os.lseek(descriptor, 0, os.SEEK_SET)
        write_all(descriptor, render_header(tensors, {**file.metadata, **true}))
        digest = _sha256(descriptor) if wish.reread else None
    os.fsync(descriptor)
    return digest


def _copy(name: str, tensor: LazyTensor, stream: Stream) -> None:
    written = sum(map(stream.put, tensor.chunks()))
    if written != tensor.nbytes:
        raise ValueError(f"tensor {shown(name)} gave {written} bytes instead of {tensor.nbytes}")


def _sha256(descriptor: int) -> str:
    with Hasher() as hasher:
        start = 0
        while piece := os.pread(descriptor, PIECE, start):
            hasher.update(piece)
            start += len(piece)
        return hasher.hexdigest()


def _write_document(document: Any, descriptor: int) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    write_all(descriptor, f"{text}\n".encode())
    os.fsync(descriptor)


def _allocate(descriptor: int, size: int) -> None:
    """Takes the space at once: a full disk is known before anything is written, and the file lies in one piece."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in _NO_ALLOCATION:
            raise


@contextmanager
def _new_file(path: Path) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
