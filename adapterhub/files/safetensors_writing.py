"""Writes one safetensors file: header first, then the bytes of its tensors in order, through one buffer."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

from adapterhub.files.package import File
from adapterhub.files.safetensors import in_order, render_header
from adapterhub.files.streaming import Follower, Stream, allocate, put_tensor, sha256_of, write_all
from adapterhub.tensors import LazyTensor

DIGEST = "0" * 64
"""Stands in metadata for the SHA-256 of the bytes after the header, which is known only when they are written."""


def write_safetensors(
    file: File, descriptor: int, hashed: Collection[str], *, reread: bool, digest: bool = True
) -> str | None:
    """Writes `file` to an empty file; gives its SHA-256, if `digest` is wanted.

    The DIGEST in the metadata fields `hashed` is replaced once the data is there, and what comes late put in; the file is
    then hashed if `reread`.
    """
    tensors = in_order(file.tensors)
    if file.in_given_order:
        tensors = list(file.tensors.items())
    pending = [name for name in hashed if DIGEST in file.metadata.get(name, "")]
    header = file.head or render_header(tensors, file.metadata)
    allocate(descriptor, len(header) + sum(tensor.nbytes for _, tensor in tensors))
    write_all(descriptor, header)
    if not pending and (file.late or not digest):
        _write(tensors, Stream(descriptor, None, len(header)))
        if file.late is None:
            return None
        return _write_again(descriptor, tensors, {**file.metadata, **file.late()}, reread=reread and digest)
    with Follower(
        descriptor, len(header) if pending else 0
    ) as follower:  # a header that waits is hashed when it is true
        _write(tensors, Stream(descriptor, follower, len(header)))
        found = follower.hexdigest()
    if not pending:
        return found
    true = {name: file.metadata[name].replace(DIGEST, found) for name in pending}
    late = file.late() if file.late else {}
    return _write_again(descriptor, tensors, {**file.metadata, **true, **late}, reread=reread and digest)


def _write_again(
    descriptor: int, tensors: Sequence[tuple[str, LazyTensor]], metadata: Mapping[str, str], *, reread: bool
) -> str | None:
    """Writes the header anew, now that all of it is known."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    write_all(descriptor, render_header(tensors, metadata))
    return sha256_of(descriptor) if reread else None


def _write(tensors: Sequence[tuple[str, LazyTensor]], stream: Stream) -> None:
    for name, tensor in tensors:
        put_tensor(name, tensor, stream)
    stream.flush()
