"""write: a package onto the disk, whole or not at all, one tensor at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from adapterhub.errors import UsageError
from adapterhub.files import publishing
from adapterhub.files.beside import leaves
from adapterhub.files.package import DIRECTORY, PNG, SAFETENSORS, TORCH_ZIP, WEBP, File, Package
from adapterhub.files.safetensors_writing import pending, write_safetensors, write_unhashed
from adapterhub.files.source import machine
from adapterhub.files.streaming import sha256_of, write_all
from adapterhub.files.targets import require_file_target, require_folder_target

_OPEN = 32
"""Files of a folder that are open at a time."""


def write(
    package: Package,
    path: Path,
    *,
    force: bool = False,
    hashed: Collection[str] = (),
    sources: Collection[Path] = (),
    prove: Callable[[Path], None] | None = None,
    reread: bool = True,
    digest: bool = True,
    threads: int = 1,
    again: bool = False,
) -> Mapping[str, str | None]:
    """Writes `package` to the file or, if its container is a directory, the folder `path`; gives {name: SHA-256} of
    the files, each written as its own container says. Where a header changes after the data, by `hashed` fields or by the
    CRCs of a torch file, that takes a second reading: None without `reread`.

    Without `digest` nothing is hashed but what `hashed` asks for: then `threads` write at a time, if several tensors may be
    read at once; large files go past the system's cache, unless they are read `again` soon. `hashed` names the metadata
    fields whose DIGEST is replaced by the SHA-256 of the written data, in safetensors. `force` replaces what is there: a
    file, or a folder that holds nothing but what is written into it. Neither the package's own files, its covers nor
    `sources` are ever overwritten. `prove` is given what was written, under another name, before it becomes `path`, and
    stops that by raising. Whatever goes wrong, `path` is as it was before.

    Raises OutputExists, UsageError, MachineFailure, and ValueError for tensors that do not give what they promise.
    """
    covers = (file.cover for file in package.files.values() if file.cover)
    inputs = {*package.paths.values(), *covers, *sources}
    wish = _Wish(force, hashed, inputs, prove or _unproved, reread, digest, threads, again)
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
    digest: bool
    threads: int
    again: bool


def _unproved(path: Path) -> None:
    """Nobody asked for a proof."""


def _write_single(package: Package, path: Path, wish: _Wish) -> Mapping[str, str | None]:
    require_file_target(path, wish.inputs, force=wish.force)
    with publishing.unpublished_file(path) as (temporary, descriptor):
        with machine("write", path):
            digests = _write_files({path.name: (package.only, descriptor)}, wish)
        wish.prove(temporary)
        publishing.publish_file(temporary, path, force=wish.force)
    return digests


def _write_folder(package: Package, path: Path, wish: _Wish) -> Mapping[str, str | None]:
    names = [*package.files, *package.documents]
    if bad := [name for name in names if leaves(name)]:
        raise ValueError(f"{bad} lead out of the folder")
    require_folder_target(path, names, wish.inputs, force=wish.force)
    with publishing.unpublished_folder(path) as (temporary, _):
        digests: dict[str, str | None] = {}
        with machine("write", path):
            for names_at_once in _batches(list(package.files)):
                with ExitStack() as stack:
                    made = {name: stack.enter_context(_new_file(temporary / name)) for name in names_at_once}
                    digests |= _write_files({name: (package.files[name], made[name]) for name in made}, wish)
            for name, document in package.documents.items():
                with _new_file(temporary / name) as descriptor:
                    _write_document(document, descriptor)
        wish.prove(temporary)
        require_folder_target(path, names, wish.inputs, force=wish.force)
        publishing.publish_folder(temporary, path, force=wish.force)
    return digests


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """As many as may be open at a time."""
    return (names[start : start + _OPEN] for start in range(0, len(names), _OPEN))


def _write_files(given: Mapping[str, tuple[File, int]], wish: _Wish) -> dict[str, str | None]:
    """Writes each file as what its container says, and those together that nobody hashes meanwhile; gives their SHA-256."""
    for file, _ in given.values():
        if file.container not in _WRITERS:
            raise UsageError(f"no writer for {file.container}", mend=f"These are written: {', '.join(_WRITERS)}.")
    plain = {name: one for name, one in given.items() if _is_unhashed(one[0], wish)}
    rereads = wish.reread and wish.digest
    write_unhashed(list(plain.values()), wish.threads, again=wish.again or rereads)
    digests: dict[str, str | None] = {}
    for name, (file, descriptor) in given.items():
        if name in plain:
            digests[name] = sha256_of(descriptor) if rereads else None
        else:
            digests[name] = _WRITERS[file.container](file, descriptor, wish)
        os.fsync(descriptor)
    return digests


def _is_unhashed(file: File, wish: _Wish) -> bool:
    """Whether no digest is of use before all is written: none is wanted, or the header changes afterwards."""
    unhashed = file.late is not None or not wish.digest
    return file.container == SAFETENSORS and unhashed and not pending(file, wish.hashed)


def _write_safetensors(file: File, descriptor: int, wish: _Wish) -> str | None:
    return write_safetensors(file, descriptor, wish.hashed, reread=wish.reread and wish.digest)


def _write_torch_zip(file: File, descriptor: int, wish: _Wish) -> str | None:
    from adapterhub.files.pickles.zip_writing import write_torch_zip

    write_torch_zip(file, descriptor)
    return sha256_of(descriptor) if wish.reread and wish.digest else None


def _write_picture(file: File, descriptor: int, wish: _Wish) -> str | None:
    from adapterhub.files.images.writing import render

    write_all(descriptor, render(file.tree, file.cover, file.container))
    return sha256_of(descriptor)


_WRITERS: Mapping[str, Callable[[File, int, _Wish], str | None]] = {
    SAFETENSORS: _write_safetensors, TORCH_ZIP: _write_torch_zip, PNG: _write_picture, WEBP: _write_picture,
}  # fmt: skip


def _write_document(document: Any, descriptor: int) -> None:
    if not isinstance(document, str):
        document = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_all(descriptor, document.encode())
    os.fsync(descriptor)


@contextmanager
def _new_file(path: Path) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
