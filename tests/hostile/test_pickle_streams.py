"""Streams of opcodes that no pickler writes, or that cost more than they may."""

import struct
from pathlib import Path

import pytest

from adapterhub import files
from adapterhub.errors import MalformedFile
from tests.hostile.pickled import number, text, zipped


def framed(body: bytes, length: int | None = None) -> bytes:
    return b"\x80\x04\x95" + struct.pack("<Q", len(body) if length is None else length) + body


STREAMS = {
    "empty": (b"", "pickle-cut"),
    "no protocol": (b"}.", "pickle-protocol"),
    "protocol 0": (b"\x80\x00}.", "pickle-protocol"),
    "protocol 1": (b"\x80\x01}.", "pickle-protocol"),
    "protocol 6": (b"\x80\x06}.", "pickle-protocol"),
    "protocol twice": (b"\x80\x02\x80\x02}.", "pickle-opcode"),
    "unknown opcode": (b"\x80\x02\xff.", "pickle-opcode"),
    "text integer": (b"\x80\x02I1\n.", "pickle-opcode"),
    "text string": (b"\x80\x02S'a'\n.", "pickle-opcode"),
    "nothing left": (b"\x80\x02.", "pickle-stack"),
    "two values left": (b"\x80\x02NN.", "pickle-stack"),
    "a mark left": (b"\x80\x02N(.", "pickle-stack"),
    "a value taken below a mark": (b"\x80\x02N(\x85.", "pickle-stack"),
    "no mark": (b"\x80\x02t.", "pickle-stack"),
    "a key without a value": (b"\x80\x02}(Nu.", "pickle-stack"),
    "items in a number": (b"\x80\x02K\x01(Ne.", "pickle-type"),
    "keys in a list": (b"\x80\x02]NNs.", "pickle-type"),
    "members in a list": (b"\x80\x04](N\x90.", "pickle-type"),
    "key twice": (b"\x80\x02}K\x01NsK\x01Ns.", "pickle-duplicate"),
    "key twice, once as true": (b"\x80\x02}K\x01Ns\x88Ns.", "pickle-duplicate"),
    "list as a key": (b"\x80\x02}]Ns.", "pickle-keys"),
    "tuple as a key": (b"\x80\x02})Ns.", "pickle-keys"),
    "huge number as a key": (b"\x80\x02}" + number(1 << 61) + b"Ns.", "pickle-keys"),
    "memo that is not there": (b"\x80\x02h\x05.", "pickle-memo"),
    "memo taken twice": (b"\x80\x02}q\x00q\x00.", "pickle-memo"),
    "memo bomb": (b"\x80\x02}r\xff\xff\xff\x7f.", "pickle-memo"),
    "long integer": (b"\x80\x02\x8a\x21" + b"\x01" * 33 + b".", "pickle-integer"),
    "longer integer": (b"\x80\x02\x8b\x00\x00\x01\x00" + b"\x01" * 65536 + b".", "pickle-integer"),
    "integer that is cut": (b"\x80\x02\x8b\xff\xff\xff\x7f.", "pickle-cut"),
    "text that is cut": (b"\x80\x02X\xff\xff\xff\xffabc.", "pickle-cut"),
    "text near 2**64": (b"\x80\x04\x8d" + b"\xff" * 8 + b"abc.", "pickle-cut"),
    "text that is not UTF-8": (b"\x80\x02X\x02\0\0\0\xff\xfe.", "pickle-text"),
    "text with half a character": (b"\x80\x02X\x03\0\0\0\xed\xa0\x80.", "pickle-text"),
    "a global that is cut": (b"\x80\x02ctorch", "pickle-cut"),
    "a global with an endless name": (b"\x80\x02c" + b"a" * 2000 + b"\nb\n.", "pickle-global"),
    "a global that is not UTF-8": (b"\x80\x02c\xff\nb\n.", "pickle-global"),
    "nested": (b"\x80\x02" + b"]" * 65 + b"a" * 64 + b".", "pickle-depth"),
    "nested 90,000 times": (b"\x80\x02" + b"]" * 90_000 + b"a" * 89_999 + b".", "pickle-depth"),
    "doubling": (
        b"\x80\x04](" + b")\x94" + b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86\x94" for i in range(60)) + b"e.",
        "pickle-nodes",
    ),
    "a ring": (b"\x80\x02]q\x00h\x00a.", "pickle-cycle"),
    "a ring through a ParameterDict": (
        b"\x80\x02ctorch.nn.modules.container\nParameterDict\n)\x81q\x00}" + text("_parameters") + b"}K\x01h\x00ssb.",
        "pickle-cycle",
    ),
    "too many on the stack": (b"\x80\x02" + b"N" * 100_001 + b".", "pickle-stack"),
    "too many marks": (b"\x80\x02" + b"(" * 100_001 + b".", "pickle-stack"),
    "too many opcodes": (b"\x80\x02]" + b"Na" * 500_000 + b".", "pickle-opcodes"),
    "bytes made again and again": (
        b"\x80\x04(" + text("a" * (1 << 20)) + b"\x94c_codecs\nencode\n\x94" + text("latin1") + b"\x94"
        + b"h\x01h\x00h\x02\x86R" * 200 + b"t.", "pickle-memory",
    ),
    "a name that is made longer and longer": (
        b"\x80\x02}" + text("a" * 5000) + b"](" + b"}" * 2000 + b"es.", "pickle-names",
    ),
    "colliding keys": (b"\x80\x02}(" + b"".join(number(i << 40) + b"N" for i in range(16_385)) + b"u.", "pickle-keys"),
    "frame longer than the file": (framed(b"N.", 100), "pickle-cut"),
    "frame near 2**64": (framed(b"N.", 2**64 - 1), "pickle-cut"),
    "frame that ends inside an opcode": (framed(text("abc") + b".", 4), "pickle-frame"),
    "frame that ends after the pickle": (framed(b"N.  ", 4), "pickle-frame"),
    "frame in a frame": (framed(framed(b"N.")[2:]), "pickle-frame"),
    "a pickle behind the pickle": (b"\x80\x02N.\x80\x02N.", "pickle-trailing"),
    "a byte behind the pickle": (b"\x80\x02N.\0", "pickle-trailing"),
}  # fmt: skip


@pytest.mark.parametrize("what", STREAMS)
def test_a_stream_that_no_pickler_writes_is_refused_by_the_name_of_the_rule(tmp_path: Path, what: str) -> None:
    pickled, rule = STREAMS[what]
    path = tmp_path / "x.pt"
    path.write_bytes(zipped(pickled))
    with pytest.raises(MalformedFile) as caught:
        files.read(path)
    assert caught.value.rule == rule
    assert caught.value.exit_status == 3
