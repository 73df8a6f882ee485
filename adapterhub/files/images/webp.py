"""WebP, chunk by chunk. Only lossless pictures can hold strips; no text chunk of theirs is read by A1111.

Source: RFC 9649 (RIFF container, sections 2.3 to 2.7; VP8L header, section 3.4).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from adapterhub.files.images.picture import Picture, require_packed, require_size
from adapterhub.files.limits import Limits
from adapterhub.files.pickles.state import Refusal, shown
from adapterhub.files.source import Source

_HEAD, _CHUNK = 12, 8
"""Bytes of `RIFF`, size and `WEBP`; of a chunk's kind and size."""
_CHUNKS = 65_536
_LOSSLESS, _LOSSY, _FRAME, _EXTENDED = b"VP8L", b"VP8 ", b"ANMF", b"VP8X"
_LOSSLESS_MARK = 0x2F
_KINDS = {_LOSSY: "a lossy WebP picture", _FRAME: "an animated WebP picture"}
"""What cannot hold strips."""


class _Chunk(NamedTuple):
    kind: bytes
    start: int
    length: int


def read_webp(source: Source, limits: Limits) -> Picture:
    """The picture in `source`. Refusal where it breaks a rule of WebP."""
    chunks = list(_chunks(source))
    pictures = [chunk for chunk in chunks if chunk.kind in (_LOSSLESS, *_KINDS)]
    if not pictures or (len(pictures) > 1 and any(chunk.kind != _FRAME for chunk in pictures)):
        raise Refusal("webp-order", f"a WebP of {len(pictures)} pictures, where one is expected")
    first = pictures[0]
    if first.kind in _KINDS:
        return Picture(_KINDS[first.kind], "WEBP", 0, 0, None)
    width, height = _size(source, first)
    if chunks[0].kind == _EXTENDED and _canvas(source, chunks[0]) != (width, height):
        raise Refusal("webp-canvas", f"a WebP picture of {width} × {height} on a canvas of another size")
    require_size(width, height, limits)
    require_packed(first.length, width, height)
    pixels = _alone(source.read(first.start, first.length)) if width * height <= limits.decoded else None
    return Picture("a lossless WebP picture", "WEBP", width, height, pixels)


def _chunks(source: Source) -> Iterator[_Chunk]:
    """All chunks of the file, which must fill it."""
    if source.size < _HEAD or source.size != _even(_CHUNK + struct.unpack("<4xI", source.read(0, _CHUNK))[0]):
        raise Refusal("webp-size", f"the WebP states another size than its {source.size} bytes")
    at = _HEAD
    for _ in range(_CHUNKS):
        if at == source.size:
            return
        if at + _CHUNK > source.size:
            raise Refusal("webp-cut", "the WebP is cut inside the head of a chunk")
        kind, length = struct.unpack("<4sI", source.read(at, _CHUNK))
        chunk = _Chunk(kind, at + _CHUNK, length)
        at = _even(chunk.start + length)
        if at > source.size:
            raise Refusal("webp-cut", f"the chunk {shown(kind)} ends {at - source.size} bytes behind the file")
        yield chunk
    raise Refusal("webp-chunks", f"a WebP of more than {_CHUNKS} chunks")


def _even(place: int) -> int:
    return place + place % 2


def _size(source: Source, chunk: _Chunk) -> tuple[int, int]:
    """Width and height of a lossless picture, each less one, in 14 bits."""
    if chunk.length < 5:
        raise Refusal("webp-cut", "the pixels of the WebP are cut")
    mark, bits = struct.unpack("<BI", source.read(chunk.start, 5))
    if mark != _LOSSLESS_MARK:
        raise Refusal("webp-pixels", "the lossless pixels of the WebP do not begin with their mark")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _canvas(source: Source, chunk: _Chunk) -> tuple[int, int]:
    """Width and height of the canvas, each less one, in 24 bits behind four bytes of flags."""
    content = source.read(chunk.start, min(chunk.length, 10))
    return int.from_bytes(content[4:7], "little") + 1, int.from_bytes(content[7:], "little") + 1


def _alone(content: bytes) -> bytes:
    """The WebP of these lossless pixels and nothing else."""
    padded = content + bytes(len(content) % 2)
    return struct.pack("<4sI4s4sI", b"RIFF", 12 + len(padded), b"WEBP", _LOSSLESS, len(content)) + padded
