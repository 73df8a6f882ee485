"""Whatever is done to a file: it is refused by a rule, or it is one that the reference accepts and reads the same."""

import json
import tempfile
from pathlib import Path

import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterhub import files
from adapterhub.errors import MalformedFile

HEADER = json.dumps(
    {
        "__metadata__": {"format": "pt", "note": "x"},
        "a": {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [], "data_offsets": [8, 12]},
        "c": {"dtype": "F4", "shape": [0, 2], "data_offsets": [12, 12]},
    },
    separators=(",", ":"),
).encode()
WHOLE = len(HEADER).to_bytes(8, "little") + HEADER + bytes(range(12))
TOKENS = [b"", b" ", b"\0", b"0", b"1", b"-", b"1e0", b"9" * 25, b"true", b"null", b"[]", b"{}", b'"', b",", b":", b"\\u0061",
          b"\\ud800", b"F32", b"F4", b"dtype", b'"shape":[1],', b"\xff", b"\xef\xbb\xbf", b"__metadata__", b"a", b"c"]  # fmt: skip
EDITS = st.tuples(st.integers(8, len(WHOLE)), st.integers(0, 12), st.sampled_from(TOKENS))


def mutated(edits: list[tuple[int, int, bytes]], mend: bool) -> bytes:
    """WHOLE with pieces replaced; `mend` makes the stated length of the header true again."""
    content = WHOLE
    for at, cut, token in edits:
        content = content[:at] + token + content[at + cut :]
    count = len(HEADER) + len(content) - len(WHOLE)
    return count.to_bytes(8, "little") + content[8:] if mend and count > 0 else content


def understood(content: bytes) -> dict[str, tuple[list[int], bytes]] | None:
    """What we read from a file with this content; None if it is refused, and only a rule may refuse it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.safetensors")
        path.write_bytes(content)
        try:
            with files.read(path) as package:
                return {name: (list(t.shape), t.read()) for name, t in package.only.tensors.items()}
        except MalformedFile:
            return None


def test_the_file_that_is_mutated_is_understood() -> None:
    assert understood(WHOLE) == {"a": ([2, 2], bytes(range(8))), "b": ([], bytes(range(8, 12))), "c": ([0, 2], b"")}


@settings(max_examples=600, deadline=None)
@given(st.lists(EDITS, min_size=1, max_size=3), st.booleans())
def test_a_mutated_file_is_refused_by_a_rule_or_means_to_us_what_it_means_to_the_reference(
    edits: list[tuple[int, int, bytes]], mend: bool
) -> None:
    content = mutated(edits, mend)
    ours = understood(content)
    if ours is not None:
        assert ours == {name: (t["shape"], bytes(t["data"])) for name, t in safetensors.deserialize(content)}


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_that_nobody_meant_are_refused_by_a_rule(content: bytes) -> None:
    assert understood(content) is None
