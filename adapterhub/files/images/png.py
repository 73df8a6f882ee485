"""PNG, chunk by chunk: lengths, order and CRCs are checked before Pillow sees anything, and text is read by us.

Source: PNG specification, third edition (W3C), sections 5 and 11; A1111 `textual_inversion.py` (the keyword).
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from adapterhub.files.images.picture import Picture, inflate, require_packed, require_size
from adapterhub.files.limits import Limits
from adapterhub.files.pickles.state import Refusal, shown
from adapterhub.files.source import Source

SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEYWORD = b"sd-ti-embedding"
_FRAME = 12
"""Bytes of a chunk beside its data: length, kind, CRC."""
_CHUNKS = 65_536
"""Chunks of one file; encoders put kilobytes into each."""
_BEGIN, _PALETTE, _DATA, _END = b"IHDR", b"PLTE", b"IDAT", b"IEND"
_CRITICAL = (_BEGIN, _PALETTE, _DATA, _END)
_ORDER = re.compile(rb"IHDR;(?:(?!IHDR;|IDAT;|IEND;)....;)*(?:IDAT;)+(?:(?!IHDR;|IDAT;|PLTE;|IEND;)....;)*IEND;")
_BEGIN_LENGTH = 13


class _Chunk(NamedTuple):
    kind: bytes
    start: int
    length: int


def read_png(source: Source, limits: Limits) -> Picture:
    """The picture in `source`. Refusal where it breaks a rule of PNG, or where its payload is too large or no base64."""
    chunks = list(_chunks(source))
    if not _ORDER.fullmatch(b"".join(chunk.kind + b";" for chunk in chunks)) or chunks[0].length != _BEGIN_LENGTH:
        raise Refusal("png-order", "the chunks of the PNG do not stand in the order that they must")
    width, height = struct.unpack(">2I", source.read(chunks[0].start, 8))
    require_size(width, height, limits)
    require_packed(sum(chunk.length for chunk in chunks if chunk.kind == _DATA), width, height)
    pixels = _pixels(source, chunks) if width * height <= limits.decoded else None
    return Picture("a PNG picture", "PNG", width, height, pixels, _payload(source, chunks, limits))


def _chunks(source: Source) -> Iterator[_Chunk]:
    """All chunks of the file, up to its end, their CRCs checked."""
    at = len(SIGNATURE)
    for _ in range(_CHUNKS):
        if at + _FRAME > source.size:
            raise Refusal("png-cut", "the PNG is cut: it ends before its end mark")
        length, kind = struct.unpack(">I4s", source.read(at, 8))
        chunk = _Chunk(kind, at + 8, length)
        at += _FRAME + length
        if at > source.size:
            raise Refusal("png-cut", f"the chunk {shown(kind)} ends {at - source.size} bytes behind the file")
        _check(source, chunk)
        yield chunk
        if kind == _END:
            if at != source.size:
                raise Refusal("png-trailing", f"{source.size - at} bytes follow the end of the picture")
            return
    raise Refusal("png-chunks", f"a PNG of more than {_CHUNKS} chunks")


def _check(source: Source, chunk: _Chunk) -> None:
    if not chunk.kind.isalpha() or (chunk.kind[:1].isupper() and chunk.kind not in _CRITICAL):
        raise Refusal(
            "png-chunk", f"the chunk {shown(chunk.kind)} is unknown, and not marked as one that may be skipped"
        )
    crc = zlib.crc32(chunk.kind)
    for piece in source.pieces(chunk.start, chunk.length):
        crc = zlib.crc32(piece, crc)
    if crc != int.from_bytes(source.read(chunk.start + chunk.length, 4), "big"):
        raise Refusal("png-crc", f"the CRC of the chunk {shown(chunk.kind)} at byte {chunk.start - 8} is wrong")


def _pixels(source: Source, chunks: Sequence[_Chunk]) -> bytes:
    """The PNG of the critical chunks alone: no text, no profile, no animation."""
    kept = (source.read(chunk.start - 8, chunk.length + _FRAME) for chunk in chunks if chunk.kind in _CRITICAL)
    return SIGNATURE + b"".join(kept)


def _payload(source: Source, chunks: Sequence[_Chunk], limits: Limits) -> bytes | None:
    """What the text chunk of A1111's keyword holds; None where there is none."""
    found = [chunk for chunk in chunks if chunk.kind in _TEXTS and _keyword(source, chunk) == KEYWORD]
    if not found:
        return None
    if len(found) > 1:
        raise Refusal(
            "png-text-twice", f"{len(found)} text chunks {KEYWORD.decode()}, which readers choose from differently"
        )
    largest = -(-limits.payload // 3) * 4
    if found[0].length > largest + 80:
        raise Refusal("payload-too-large", f"a text chunk of {found[0].length} bytes, above {largest}")
    content = source.read(found[0].start, found[0].length)
    try:
        return base64.b64decode(_TEXTS[found[0].kind](content[len(KEYWORD) + 1 :], largest), validate=True)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise Refusal("png-text", f"the text chunk {KEYWORD.decode()} is broken: {error}") from None


def _keyword(source: Source, chunk: _Chunk) -> bytes:
    return source.read(chunk.start, min(chunk.length, len(KEYWORD) + 1)).partition(b"\0")[0]


def _plain(content: bytes, limit: int) -> bytes:
    return content


def _deflated(content: bytes, limit: int) -> bytes:
    if content[:1] != b"\0":
        raise ValueError("an unknown compression")
    return inflate((content[1:],), limit)


def _international(content: bytes, limit: int) -> bytes:
    """`content` is a flag, a method, a language, a translated keyword, and the text."""
    _, _, text = content[2:].split(b"\0", 2)
    return _deflated(content[1:2] + text, limit) if content[:1] == b"\1" else text


_TEXTS: dict[bytes, Callable[[bytes, int], bytes]] = {b"tEXt": _plain, b"zTXt": _deflated, b"iTXt": _international}
