"""The bytes of a member of a zip archive: a byte range where it is stored, inflated piece by piece where it is not."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from adapterhub.errors import MalformedFile
from adapterhub.files.pickles.state import shown
from adapterhub.files.pickles.zip_directory import STORED, Member
from adapterhub.files.source import PIECE, Source
from adapterhub.tensors import Buffer

_MEND = "The file is damaged: get it again from where it comes from."


def pieces(source: Source, member: Member, start: int, length: int) -> Iterable[Buffer]:
    """`length` bytes from `start` of what `member` holds, in pieces of PIECE bytes; only the last may be shorter.

    Its CRC is checked where all of it is asked for: MalformedFile then comes behind the last piece.
    """
    if (start, length) == (0, member.size):
        return _checked(source, member, _plain(source, member, 0, length))
    return _plain(source, member, start, length)


def content(source: Source, member: Member) -> bytes:
    """All bytes of `member`."""
    return b"".join(pieces(source, member, 0, member.size))


def _plain(source: Source, member: Member, start: int, length: int) -> Iterable[bytes]:
    if member.method == STORED:
        return source.pieces(member.start + start, length)
    return _window(source, member, start, length)


def _checked(source: Source, member: Member, plain: Iterable[bytes]) -> Iterator[bytes]:
    crc = 0
    for piece in plain:
        crc = zlib.crc32(piece, crc)
        yield piece
    if crc != member.crc:
        raise MalformedFile(
            source.path, "zip-crc", f"the CRC of {shown(member.name)} is not that of its bytes", mend=_MEND
        )


def _window(source: Source, member: Member, start: int, length: int) -> Iterator[bytes]:
    """A part of the inflated bytes, cut anew into pieces that hold whole elements; up to the end, the end is checked."""
    skip, gathered, whole = start, bytearray(), start + length == member.size
    for piece in _inflated(source, member):
        part = piece[skip : skip + length]
        skip, length = max(0, skip - len(piece)), length - len(part)
        gathered += part
        while len(gathered) >= PIECE:
            yield bytes(gathered[:PIECE])
            del gathered[:PIECE]
        if not length and not whole:
            break
    if gathered:
        yield bytes(gathered)


def _inflated(source: Source, member: Member) -> Iterator[bytes]:
    """Everything inflated, never more than PIECE at once, and exactly as much as the archive says."""
    machine, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    try:
        for packed in source.pieces(member.start, member.packed):
            left = packed
            while left and not machine.eof:
                piece = machine.decompress(left, PIECE)
                left, size = machine.unconsumed_tail, size + len(piece)
                if size > member.size:
                    raise zlib.error("more bytes than the archive says")
                if piece:
                    yield piece
            if left or machine.unused_data:
                raise zlib.error("bytes follow the compressed data")
        while not machine.eof and (piece := machine.decompress(b"", PIECE)):
            size += len(piece)
            yield piece
        if not machine.eof or size != member.size:
            raise zlib.error("fewer bytes than the archive says")
    except zlib.error as error:
        message = f"the member {shown(member.name)} does not inflate: {error}"
        raise MalformedFile(source.path, "zip-inflate", message, mend=_MEND) from None
