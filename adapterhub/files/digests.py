"""Hashes of files on disk."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple, Protocol

from adapterhub.errors import MalformedFile
from adapterhub.files import foreign, safetensors
from adapterhub.files.limits import LIMITS, Limits
from adapterhub.files.opened import open_file
from adapterhub.files.package import File
from adapterhub.files.source import PIECE, Source, machine

_WINDOW, _WINDOW_BYTES = 1 << 20, 1 << 16
"""The part of a file that the oldest hashes cover."""
_CACHED = 1 << 20
"""Bytes that stay in a processor's cache while one digest after the other is shown them."""


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


class Onlooker(Protocol):
    """Who is shown the bytes of a file, piece by piece in their order."""

    def see(self, at: int, piece: memoryview) -> None:
        """Takes `piece`, which begins at byte `at`."""


def every_digest(
    path: Path, *, limits: Limits = LIMITS, also: Collection[Onlooker] = (), threads: bool = True
) -> dict[str, str | None]:
    """Every digest of a file that people quote, by its name in `documents.Hashes`, from one reading of the bytes, which
    `also` are shown; `threads` are worth it where another processor has nothing to do.

    None for what only a safetensors file has, and for an `sshs_legacy_hash` that cannot be told. A file that ends before
    the bytes that AutoV1 and `sshs_legacy_hash` cover has the hash of nothing there, e3b0c442, as in every tool.
    """
    source = Source(path)
    try:
        spans = _spans(path, source.size, limits)
        _show(source, (*spans.values(), *also), threads=threads)
        source.ensure_unchanged()
    finally:
        source.close()
    digits = {name: span.digest.hexdigest() for name, span in spans.items()}
    return {name: digits[span][:count] if span in digits else None for name, span, count in _DIGESTS}


# (name, the span that it is a hash of, how many digits are shown): A1111 `modules/hashes.py` and
# `extensions-builtin/Lora/network.py`; Kohya `library/train_util.py`; Civitai's API.
_DIGESTS = (
    ("sha256", "file", 64), ("autov1", "window", 8), ("autov2", "file", 10), ("autov3", "data", 12),
    ("sshs_model_hash", "data", 64), ("sshs_legacy_hash", "legacy", 8), ("blake3", "blake3", 64), ("crc32", "crc32", 8),
)  # fmt: skip


class _Digest(Protocol):
    def update(self, data: memoryview, /) -> object: ...

    def hexdigest(self) -> str: ...


class _CRC32:
    def __init__(self) -> None:
        from zlib_ng import zlib_ng  # several times as fast as zlib's

        self._crc32 = zlib_ng.crc32
        self._value = 0

    def update(self, data: memoryview, /) -> None:
        self._value = self._crc32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


class _Span(NamedTuple):
    """The digest of the bytes from `start` up to `end`."""

    digest: _Digest
    start: int
    end: int

    def see(self, at: int, piece: memoryview) -> None:
        """Takes its part of the bytes from `at`."""
        self.digest.update(piece[max(0, self.start - at) : max(0, self.end - at)])


def _spans(path: Path, size: int, limits: Limits) -> dict[str, _Span]:
    import hashlib

    from blake3 import blake3

    spans = {
        "file": _Span(hashlib.sha256(), 0, size),
        "window": _Span(hashlib.sha256(), _WINDOW, _WINDOW + _WINDOW_BYTES),
        "blake3": _Span(blake3(), 0, size),
        "crc32": _Span(_CRC32(), 0, size),
    }
    file = _safetensors(path, limits)
    if file is not None:
        start = size - sum(tensor.nbytes for tensor in file.tensors.values())
        spans["data"] = _Span(hashlib.sha256(), start, size)
        if header := _kohya_header(file):
            window = start + _WINDOW - header
            spans["legacy"] = _Span(hashlib.sha256(), window, window + _WINDOW_BYTES)
    return spans


def _show(source: Source, spans: Collection[Onlooker], *, threads: bool) -> None:
    """Shows everyone every piece of the file; with `threads` side by side, since hashing goes on without Python."""
    if not threads or source.size <= PIECE:
        for at in range(0, source.size, _CACHED):
            piece = memoryview(source.read(at, min(_CACHED, source.size - at)))
            for span in spans:
                span.see(at, piece)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(spans)) as beside:
        for at in range(0, source.size, PIECE):
            piece = memoryview(source.read(at, min(PIECE, source.size - at)))
            for done in [beside.submit(span.see, at, piece) for span in spans]:
                done.result()


def _safetensors(path: Path, limits: Limits) -> File | None:
    try:
        opened = open_file(path, limits)
    except MalformedFile:
        return None
    for source in opened.sources.values():
        source.close()
    return opened.file


def _kohya_header(file: File) -> int | None:
    """The bytes before the data in what Kohya hashes: the same tensors in safetensors' order, with `ss_*` metadata only.

    The window of `sshs_legacy_hash` then lies in the data. None where it would not, or the order here is another, or
    there is no `ss_*`. It is Kohya's own hash if it wrote these tensors and fields with safetensors ≥ 0.3, which pads.
    """
    tensors = safetensors.in_order(file.tensors)
    fields = {name: text for name, text in file.metadata.items() if name.startswith("ss_")}
    if not fields or [name for name, _ in tensors] != list(file.tensors):
        return None
    length = len(safetensors.render_header(tensors, fields)) - safetensors.SPARE
    return length if length <= _WINDOW else None
