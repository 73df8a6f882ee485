"""Hashes of files on disk."""

from __future__ import annotations

import os
from pathlib import Path

from adapterhub.files import foreign, safetensors
from adapterhub.files.limits import LIMITS, Limits
from adapterhub.files.source import Source, machine


def sha256(path: Path) -> str:
    """The SHA-256 of the whole file, in hexadecimal digits."""
    import hashlib

    source = Source(path)
    try:
        with machine("read", path), os.fdopen(source.descriptor, "rb", buffering=0, closefd=False) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    finally:
        source.close()


def data_sha256(path: Path, *, limits: Limits = LIMITS) -> str:
    """The SHA-256 of what follows the header: A1111's AutoV3 before it is cut, Kohya's `sshs_model_hash`."""
    import hashlib

    source = Source(path)
    try:
        head = source.read(0, min(source.size, foreign.SNIFFED))
        start = safetensors.PREFIX + safetensors.header_length(head, source.size, path, limits)
        digest = hashlib.sha256()
        for piece in source.pieces(start, source.size - start):
            digest.update(piece)
        return digest.hexdigest()
    finally:
        source.close()
