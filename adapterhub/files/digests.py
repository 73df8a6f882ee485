"""Hashes of files on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from adapterhub.errors import MalformedFile
from adapterhub.files import foreign, safetensors
from adapterhub.files.limits import LIMITS, Limits
from adapterhub.files.opened import open_file
from adapterhub.files.package import File
from adapterhub.files.source import PIECE, Source, machine
from adapterhub.tensors import DTYPE_BITS

_WINDOW_START, _WINDOW_LENGTH = 0x100000, 0x10000
_NAMES = ("sha256", "autov1", "autov2", "autov3", "sshs_model_hash", "sshs_legacy_hash", "blake3", "crc32")
_ORDER = {dtype: -place for place, dtype in enumerate(DTYPE_BITS)}


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


def every_digest(path: Path, *, limits: Limits = LIMITS) -> dict[str, str | None]:
    """Every digest of the file that people quote, by the names of `documents.Hashes`, from one reading of its bytes.

    Of a short file AutoV1 and `sshs_legacy_hash` are those of no bytes, as everywhere; of a file that is no safetensors
    the last are None. Sources: A1111 `modules/hashes.py`, Kohya `library/train_util.py` (`precalculate_safetensors_hashes`),
    Civitai's API for BLAKE3 and CRC-32.
    """
    source = Source(path)
    try:
        digests = _digests(*_sections(path, source.size, limits))
        _read_through(source, list(digests.values()))
        source.ensure_unchanged()
    finally:
        source.close()
    found = {name: _shown(digest) for name, digest in digests.items()}
    found["autov2"], found["autov3"] = found["sha256"], found.get("sshs_model_hash")
    return {name: text[: _DIGITS.get(name)] if (text := found.get(name)) else None for name in _NAMES}
