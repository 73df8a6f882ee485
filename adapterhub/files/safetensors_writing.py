"""Writes one safetensors file: header first, then the bytes of its tensors in order, through one buffer."""

from __future__ import annotations

import os
from collections.abc import Collection

from adapterhub.files.package import File
from adapterhub.files.safetensors import in_order, render_header
from adapterhub.files.streaming import Hasher, Stream, allocate, sha256_of, whole, write_all

DIGEST = "0" * 64
"""Stands in metadata for the SHA-256 of the bytes after the header, which is known only when they are written."""


def write_safetensors(file: File, descriptor: int, hashed: Collection[str], *, reread: bool) -> str | None:
    """Writes `file` in safetensors' own order to an empty file; gives its SHA-256.

    The DIGEST in the metadata fields `hashed` is replaced once the data is there, and the file hashed if `reread`.
    """
    tensors = in_order(file.tensors)
    pending = [name for name in hashed if DIGEST in file.metadata.get(name, "")]
    header = render_header(tensors, file.metadata)
    allocate(descriptor, len(header) + sum(tensor.nbytes for _, tensor in tensors))
    with Hasher() as hasher:
        stream = Stream(descriptor, hasher)
        if pending:
            write_all(descriptor, header)  # not hashed yet: it depends on the hash of what follows
        else:
            stream.put(header)
        for name, tensor in tensors:
            for chunk in whole(name, tensor):
                stream.put(chunk)
        stream.flush()
        digest = hasher.hexdigest()
    if not pending:
        return digest
    true = {name: file.metadata[name].replace(DIGEST, digest) for name in pending}
    os.lseek(descriptor, 0, os.SEEK_SET)
    write_all(descriptor, render_header(tensors, {**file.metadata, **true}))
    return sha256_of(descriptor) if reread else None
