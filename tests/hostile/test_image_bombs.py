"""Whatever a picture claims or holds: it costs little, and is read or refused by a rule."""

import base64
import json
import random
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from adapterhub.files.images.writing import render
from tests.files.pictures import COVER, chunk, document, embedding, floats, framed_by_hand, with_chunk
from tests.hostile.test_images import END, KEYWORD, SIGNATURE, begin, carrying, data, encoded, understood

COST = """
import re, sys, time
from pathlib import Path
from adapterhub import files
from adapterhub.errors import MalformedFile
try:
    package = files.read(Path(sys.argv[1]))
    outcome = package.problems[0].code if package.problems else len(package.only.tensors)
except MalformedFile as error:
    outcome = error.rule
peak = int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(outcome, peak < 300_000, file=sys.stdout)
print(peak >> 10, "MB", time.process_time(), "s", file=sys.stderr)
"""
SPREAD = '{"a": {"TORCHTENSOR": [' + "0.123456789012345678901234567890," * 900_000 + "1]}}"
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a text chunk of 100 MB": (lambda: with_chunk(b"tEXt", KEYWORD + b"A" * 100_000_000), "payload-too-large"),
    "another text of 100 MB": (lambda: with_chunk(b"tEXt", b"note\0" + b"A" * 100_000_000), "no-embedding"),
    "a text that inflates to 200 MB": (
        lambda: with_chunk(b"zTXt", KEYWORD + b"\0" + zlib.compress(bytes(200_000_000))), "payload-too-large",
    ),
    "a text of all the bytes that it may have": (lambda: carrying(SPREAD), "1"),
    "the same, deflated": (
        lambda: with_chunk(b"iTXt", KEYWORD + b"\1\0\0\0" + zlib.compress(base64.b64encode(SPREAD.encode()))), "1",
    ),
    "wide letters": (lambda: carrying('{"a": "' + "\U0001f600" * 1_900_000 + '"}'), "0"),
    "a long text": (lambda: carrying('{"a": "' + "x" * 31_000_000 + '"}'), "0"),
    "12 million pixels": (lambda: encoded(Image.new("RGB", (4000, 3000), "white")), "no-embedding"),
    "64 million pixels": (lambda: encoded(Image.new("RGB", (8000, 8000), "white")), "no-embedding"),
    "12 million pixels of WebP": (
        lambda: encoded(Image.new("RGB", (4000, 3000), "white"), "WEBP", lossless=True, method=0), "no-embedding",
    ),
    "12 million pixels of 16 bits": (
        lambda: SIGNATURE + begin(4000, 3000, b"\x10\6\0\0\1") + data(b"\1" * 96_050_000) + END, "no-embedding",
    ),
    "strips that inflate to 40 MB": (
        lambda: encoded(framed_by_hand(document(note=" " * 40_000_000), COVER)), "payload-too-large",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BOMBS)
def test_a_bomb_takes_little_memory(tmp_path: Path, what: str) -> None:
    make, expected = BOMBS[what]
    (tmp_path / "x.png").write_bytes(make())
    done = subprocess.run([sys.executable, "-c", COST, tmp_path / "x.png"], capture_output=True, text=True)
    assert done.stdout.split() == [expected, "True"], done.stderr


SMALL = [
    render(embedding(floats([[0.5] * 8])), None, "webp"),
    carrying(document([[0.5, 0.25]])),
    encoded(framed_by_hand(document([[0.5, 0.25]]), COVER)),
]


@pytest.mark.parametrize("content", SMALL, ids=["webp", "text", "strips"])
def test_flipped_bytes_and_cuts_are_read_or_refused_by_a_rule(content: bytes) -> None:
    dice = random.Random(0)
    assert understood(content)
    for _ in range(200):
        changed = bytearray(content)
        changed[dice.randrange(len(content))] ^= dice.randrange(1, 256)
        understood(bytes(changed))
        understood(content[: dice.randrange(len(content))])


KINDS = [b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tEXt", b"zTXt", b"iTXt", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"iCCP"]
PIECES = [
    b"",
    b"\0",
    b"\0" * 4,
    b"\xff\xff",
    b"\1\2\3",
    KEYWORD,
    b"e30=",
    zlib.compress(b"\0" * 64),
    base64.b64encode(document().encode()),
]
CHUNKS = st.builds(chunk, st.sampled_from(KINDS), st.lists(st.sampled_from(PIECES), max_size=4).map(b"".join))
HEADS = st.builds(begin, st.integers(0, 9), st.integers(0, 9), st.tuples(st.sampled_from([1, 2, 4, 8, 16]), st.integers(0, 7),
                  st.integers(0, 1), st.integers(0, 1), st.integers(0, 2)).map(bytes))  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(HEADS, st.lists(CHUNKS, max_size=4))
def test_chunks_with_true_crcs_in_any_order_are_read_or_refused_by_a_rule(head: bytes, chunks: list[bytes]) -> None:
    understood(SIGNATURE + head + b"".join(chunks) + END)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["TORCHTENSOR", "a", "state_dict"]), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["string_to_param", "TORCHTENSOR", "a"]), VALUES))
def test_any_json_is_read_or_refused_by_a_rule(tree: dict[str, object]) -> None:
    understood(carrying(json.dumps(tree)))
