"""How bytes are changed so that they stay sound enough to be looked at: checksums and sizes are mended."""

from __future__ import annotations

import base64
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable

from tests.files.pictures import chunk
from tests.hostile.archives import Part, archive, deflated

Change = Callable[[bytes], bytes]
"""What the fuzzer does to a few bytes."""
Mutate = Callable[[bytes, Change, random.Random], bytes]
_SIGNATURE, _KEYWORD = b"\x89PNG\r\n\x1a\n", b"sd-ti-embedding\0"
_BLIND = 0.25
"""How often nothing is mended, so that checksums and sizes are met that are wrong."""


def of_nothing(content: bytes, change: Change, dice: random.Random) -> bytes:
    """Any bytes."""
    return change(content)


def of_header(content: bytes, change: Change, dice: random.Random) -> bytes:
    """The header of a safetensors file, whose length is mended; or any bytes."""
    length = int.from_bytes(content[:8], "little")
    if dice.random() < _BLIND or length > len(content):
        return change(content)
    header = change(content[8 : 8 + length])
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def of_zip(content: bytes, change: Change, dice: random.Random) -> bytes:
    """One member of an archive, which is written anew around it; or any bytes."""
    if dice.random() < _BLIND:
        return change(content)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as found:
            parts = [Part(info.filename, found.read(info)) for info in found.infolist()]
        at = dice.randrange(len(parts))
    except (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, RuntimeError, EOFError, OSError):
        return change(content)
    parts[at] = Part(parts[at].name, change(parts[at].content))
    if dice.random() < _BLIND:
        told = deflated(parts[at].content)
        parts[at] = Part(parts[at].name, told.content, told.local, told.central)
    try:
        return archive(parts)
    except (UnicodeEncodeError, struct.error):
        return change(content)


def of_png(content: bytes, change: Change, dice: random.Random) -> bytes:
    """One chunk of a picture, or what it holds, with its CRC; or any bytes."""
    chunks = _chunks(content)
    if not chunks or dice.random() < _BLIND:
        return change(content)
    at = dice.randrange(len(chunks))
    kind, data = chunks[at]
    match dice.randrange(8):
        case 0:
            chunks[at] = change(kind)[:4].ljust(4, b"a"), data
        case 1:
            chunks.insert(at, chunks[dice.randrange(len(chunks))])
        case 2:
            del chunks[at]
        case _:
            chunks[at] = kind, _inside(kind, data, change)
    return _SIGNATURE + b"".join(chunk(*each) for each in chunks)


def of_webp(content: bytes, change: Change, dice: random.Random) -> bytes:
    """Any bytes behind the first size, which is mended."""
    if dice.random() < _BLIND or content[:4] != b"RIFF":
        return change(content)
    rest = change(content[8:])
    return b"RIFF" + struct.pack("<I", len(rest)) + rest


def _chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and data of the chunks of a PNG, as far as there are whole ones."""
    found, at = [], len(_SIGNATURE)
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        found.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def _inside(kind: bytes, data: bytes, change: Change) -> bytes:
    """The data of a chunk, with a change inside of its compression or base64 where that can be undone."""
    try:
        if kind == b"IDAT":
            return zlib.compress(change(zlib.decompress(data)))
        if kind == b"tEXt" and data.startswith(_KEYWORD):
            return _KEYWORD + base64.b64encode(change(base64.b64decode(data[len(_KEYWORD) :])))
        if kind == b"zTXt" and data.startswith(_KEYWORD):
            return _KEYWORD + b"\0" + zlib.compress(change(zlib.decompress(data[len(_KEYWORD) + 1 :])))
    except (zlib.error, ValueError):
        pass
    return change(data)
