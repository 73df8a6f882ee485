"""Writes safetensors files: header first, then the bytes of the tensors, in order and hashed, or by several threads."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

from adapterhub.files.package import File
from adapterhub.files.progress import tell
from adapterhub.files.safetensors import in_order, render_header
from adapterhub.files.streaming import Follower, Stream, allocate, put_all, sha256_of, write_all
from adapterhub.files.together import parts, write_parts
from adapterhub.tensors import LazyTensor

DIGEST = "0" * 64
"""Stands in metadata for the SHA-256 of the bytes after the header, which is known only when they are written."""
Named = Sequence[tuple[str, LazyTensor]]


def pending(file: File, hashed: Collection[str]) -> list[str]:
    """The metadata fields of `hashed` that wait for a digest of what `file` holds."""
    return [name for name in hashed if DIGEST in file.metadata.get(name, "")]


def write_safetensors(file: File, descriptor: int, hashed: Collection[str], *, reread: bool) -> str | None:
    """Writes `file` to an empty file; gives its SHA-256.

    The DIGEST in the metadata fields `hashed` is replaced once the data is there, and what comes late put in: then the file
    is hashed again, if `reread`.
    """
    waiting = pending(file, hashed)
    tensors, at = _begun(file, descriptor)
    with Follower(descriptor, at if waiting else 0) as follower:  # a header that waits is hashed when it is true
        if not waiting:
            follower.advance(at)
        found = _write(tensors, descriptor, at, follower)
    if not waiting:
        return found
    true = {name: file.metadata[name].replace(DIGEST, found) for name in waiting}
    late = file.late() if file.late else {}
    _write_again(descriptor, tensors, {**file.metadata, **true, **late})
    return sha256_of(descriptor) if reread else None


def write_unhashed(given: Sequence[tuple[File, int]], threads: int = 1, *, again: bool = False) -> None:
    """Writes files to empty ones, all by the same `threads`; the largest first, of which there is most to do. What is read
    `again` soon is left in the system's cache.
    """
    begun = [(file, descriptor, *_begun(file, descriptor)) for file, descriptor in given]
    begun.sort(key=lambda one: sum(tensor.nbytes for _, tensor in one[2]), reverse=True)
    every = (part for _, descriptor, tensors, at in begun for part in parts(descriptor, at, tensors))
    write_parts(every, threads, cached=again)
    for file, descriptor, tensors, _ in begun:
        if file.late is not None:
            _write_again(descriptor, tensors, {**file.metadata, **file.late()})


def _begun(file: File, descriptor: int) -> tuple[Named, int]:
    """Writes the header; gives the tensors in the order in which they are to follow, and where the first one begins."""
    tensors = in_order(file.tensors)
    if file.in_given_order:
        tensors = list(file.tensors.items())
    header = file.head or render_header(tensors, file.metadata)
    allocate(descriptor, len(header) + sum(tensor.nbytes for _, tensor in tensors))
    write_all(descriptor, header)
    tell(len(header))
    return tensors, len(header)


def _write(tensors: Named, descriptor: int, at: int, follower: Follower) -> str:
    """Writes the tensors in order; gives the digest of `follower`."""

    def advanced(count: int) -> None:
        tell(count)
        follower.advance(count)

    put_all(tensors, Stream(descriptor, at, advanced))
    return follower.hexdigest()


def _write_again(descriptor: int, tensors: Named, metadata: Mapping[str, str]) -> None:
    """Writes the header anew, now that all of it is known."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    write_all(descriptor, render_header(tensors, metadata))
