"""Small values by the million, and long ones by the thousand: refused, or read in little memory."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.pickled import text, zipped
from tests.hostile.test_image_bombs import COST
from tests.hostile.test_safetensors import raw


def holding(value: bytes) -> bytes:
    """A header of 16 MB, filled with `value` over and over in a field that nobody knows."""
    rest = b'{"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"y":[', b"0]}}"
    return raw(rest[0] + value * (((1 << 24) - 100) // len(value)) + rest[1])


def fields(count: int) -> bytes:
    return raw(b'{"__metadata__":{' + b",".join(b'"%x":"\\u202e<x"' % number for number in range(count)) + b"}}")


BOMBS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "lists in a header": ("x.safetensors", lambda: holding(b"[],"), "header-values"),
    "objects in a header": ("x.safetensors", lambda: holding(b'{"":0},'), "header-values"),
    "texts in a header": ("x.safetensors", lambda: holding(b'"ab",'), "header-values"),
    "texts of backslashes": ("x.safetensors", lambda: holding(rb'"a\\",'), "header-values"),
    "numbers in a header": ("x.safetensors", lambda: holding(b"999,"), "unknown-field"),
    "a name, again and again": ("x.safetensors", lambda: raw(b"{" + b'"":0,' * 3_000_000 + b'"a":1}'), "header-values"),
    "300,000 fields of metadata": ("x.safetensors", lambda: fields(300_000), "header-values"),
    "130,000 fields of metadata": ("x.safetensors", lambda: fields(130_000), "bidirectional-text"),
    "lists in a document": ("x.json", lambda: b'{"a":[' + b"[]," * 5_000_000 + b"0]}", "json-values"),
    "objects in a document": ("x.json", lambda: b'{"a":[' + b'{"":0},' * 2_000_000 + b"0]}", "json-values"),
    "490,000 texts in a document": (
        "x.json", lambda: b"{" + b",".join(b'"%x":"%x"' % (number, number) for number in range(490_000)) + b"}", "not-an-index",
    ),
    "a long key in 150,000 dictionaries": (
        "x.pt", lambda: zipped(b"\x80\x04]}" + text("a" * (24 << 20)) + b"\x94Nsa" + b"}h\0Nsa" * 150_000 + b".", {}), "0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BOMBS)
def test_a_bomb_takes_little_memory_and_comes_to_an_end(tmp_path: Path, what: str) -> None:
    name, make, expected = BOMBS[what]
    (tmp_path / name).write_bytes(make())
    done = subprocess.run([sys.executable, "-c", COST, tmp_path / name], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == [expected, "True"], done.stderr
