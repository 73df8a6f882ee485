"""Zip archives like torch's, written by hand, so that each number in them can lie."""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

FULL = 2**32 - 1
LOCAL = "version flags method time date crc packed size".split()
CENTRAL = ["made", *LOCAL]
PICKLED = (
    b"\x80\x02}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000"
    b"X\x03\0\0\0cpuK\x04tQK\0K\x04\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRs."
)


@dataclass(frozen=True)
class Part:
    """One member; `local` and `central` change what its two headers say, `after` follows its data."""

    name: str | bytes
    content: bytes
    local: dict[str, Any] = field(default_factory=dict)
    central: dict[str, Any] = field(default_factory=dict)
    before: bytes = b""
    after: bytes = b""


def headers(part: Part, offset: int) -> tuple[bytes, bytes]:
    raw = part.name.encode() if isinstance(part.name, str) else part.name
    size = len(part.content)
    true: dict[str, Any] = {
        "version": 20, "made": 20, "flags": 0x800, "method": 0, "time": 0, "date": 0, "crc": zlib.crc32(part.content),
        "packed": size, "size": size, "name": raw, "extra": b"", "comment": b"", "disk": 0, "mode": 0, "offset": offset,
    }  # fmt: skip
    here, there = {**true, **part.local}, {**true, **part.central}
    names = len(here["name"]), len(here["extra"])
    local = struct.pack("<4s5H3L2H", b"PK\3\4", *(here[key] for key in LOCAL), *names) + here["name"] + here["extra"]
    counts = len(there["name"]), len(there["extra"]), len(there["comment"]), there["disk"], 0
    central = struct.pack(
        "<4s6H3L5H2L", b"PK\1\2", *(there[key] for key in CENTRAL), *counts, there["mode"], there["offset"]
    )
    return local, central + there["name"] + there["extra"] + there["comment"]


def archive(parts: Sequence[Part], *, between: bytes = b"", wide: bytes = b"", **end: int) -> bytes:
    """The parts, `between`, their directory, `wide`, and the end record with what `end` changes in it."""
    body = directory = b""
    for part in parts:
        body += part.before
        local, central = headers(part, len(body))
        body += local + part.content + part.after
        directory += central
    body += between
    count = len(parts)
    told = {
        "disk": 0,
        "first": 0,
        "here": count,
        "count": count,
        "length": len(directory),
        "at": len(body),
        "comment": 0,
    }
    return body + directory + wide + b"PK\5\6" + struct.pack("<4H2LH", *{**told, **end}.values())


DATA = Part("x/data.pkl", PICKLED)
STORAGE = Part("x/data/0", struct.pack("<4f", 1, 2, 3, 4))
VERSION = Part("x/version", b"3\n")
WHOLE = [DATA, STORAGE, VERSION]


def of(*parts: Part, **change: Any) -> bytes:
    return archive([DATA, STORAGE, VERSION, *parts], **change)


def stored(**change: Any) -> bytes:
    """With another storage."""
    return archive([DATA, replace(STORAGE, **change), VERSION])


def both(**change: Any) -> bytes:
    return stored(local=change, central=change)


def end64(
    count: int = 3, *, at: int | None = None, length: int | None = None, place: int | None = None, rest: int = 44
) -> bytes:
    """The ZIP64 records for `archive(WHOLE)`."""
    plain = archive(WHOLE)
    here, long = plain.index(b"PK\1\2"), len(plain) - 22 - plain.index(b"PK\1\2")
    end = len(plain) - 22
    record = b"PK\6\6" + struct.pack("<Q2H2L4Q", rest, 45, 45, 0, 0, count, count, long if length is None else length,
                                     here if at is None else at)  # fmt: skip
    return record + b"PK\6\7" + struct.pack("<LQL", 0, end if place is None else place, 1)


def descriptor(part: Part, *, wide: bool = False, mark: bytes = b"PK\7\x08", **change: int) -> Part:
    """The member with its sizes behind its data instead of before it."""
    told = {"crc": zlib.crc32(part.content), "packed": len(part.content), "size": len(part.content), **change}
    after = mark + struct.pack("<L2Q" if wide else "<3L", *told.values())
    flags = {"flags": 0x808}
    return replace(part, local={**flags, "crc": 0, "packed": 0, "size": 0}, central=flags, after=after)


def deflated(content: bytes, **change: Any) -> Part:
    machine = zlib.compressobj(9, wbits=-15)
    packed = machine.compress(content) + machine.flush()
    told = {"method": 8, "size": len(content), "packed": len(packed), "crc": zlib.crc32(content), **change}
    return replace(STORAGE, content=packed, local=told, central=told)
