"""Whatever is done to a file of torch: it is read, or refused by a rule."""

import io
import pickle
import random
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterhub import files
from adapterhub.errors import MalformedFile
from tests.hostile.pickled import END, ORDERED, REBUILD, storage, tensor, text, whole, zipped


@pytest.mark.parametrize("old", [False, True])
def test_every_truncation_of_a_file_is_refused(tmp_path: Path, old: bool) -> None:
    path, content = tmp_path / "x.pt", saved(old)
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(MalformedFile):
            files.read(path)
    path.write_bytes(content)
    files.read(path).close()


def saved(old: bool) -> bytes:
    value = {"a": torch.arange(3.0), "b": torch.nn.Parameter(torch.ones(2, 2).T), "c": [1, "x", torch.Size([2])]}
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not old)
    return buffer.getvalue()


def untyped(content: bytes) -> None:
    """Reads a file with this content, all its tensors included; only a rule may refuse it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.pt")
        path.write_bytes(content)
        try:
            with files.read(path) as package:
                for tensor in package.only.tensors.values():
                    assert len(tensor.read()) == tensor.nbytes
        except MalformedFile:
            pass


TOKENS = [b"", b"\0", b"\xff", b"(", b")", b"t", b"R", b"b", b"}", b"]", b"N", b".", b"Q", b"s", b"u", b"e", b"a", b"\x81", b"\x85",
          b"\x86", b"\x87", b"\x88", b"\x89", b"\x93", b"\x94", b"\x95", b"h\x01", b"q\x05", b"K\x03", b"M\xff\xff", b"X\1\0\0\0x",
          b"\x8a\x01\xff", b"J\xff\xff\xff\xff", b"PK\3\4", b"PK\1\2", b"C\x02ab", b"ctorch\nfloat32\n", ORDERED]  # fmt: skip
SEEDS = [saved(False), saved(True)]
BARE = pickle.dumps({"a": [1, 2.5, "x", b"y", None, (1, 2, 3), {4}]}, 4)


@settings(max_examples=500, deadline=None)
@given(
    st.integers(0, 1),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8), st.sampled_from(TOKENS)), min_size=1, max_size=3),
)
def test_a_mutated_file_is_read_or_refused_by_a_rule(seed: int, edits: list[tuple[float, int, bytes]]) -> None:
    content = SEEDS[seed]
    for place, cut, token in edits:
        at = int(place * len(content))
        content = content[:at] + token + content[at + cut :]
    untyped(content)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4), st.sampled_from(TOKENS)), min_size=1, max_size=4))
def test_a_mutated_pickle_in_a_sound_archive_is_read_or_refused_by_a_rule(
    edits: list[tuple[float, int, bytes]],
) -> None:
    content = whole(tensor())
    for place, cut, token in edits:
        at = int(place * len(content))
        content = content[:at] + token + content[at + cut :]
    untyped(zipped(content))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*TOKENS, text("x"), storage(), REBUILD, tensor()]), max_size=12))
def test_opcodes_in_any_order_are_read_or_refused_by_a_rule(tokens: list[bytes]) -> None:
    untyped(zipped(b"\x80\x04" + b"".join(tokens) + END))


def test_flipped_bytes_of_a_legacy_file_never_give_more_bytes_than_are_there() -> None:
    dice, content = random.Random(0), saved(True)
    for _ in range(500):
        changed = bytearray(content)
        changed[dice.randrange(len(content))] = dice.randrange(256)
        untyped(bytes(changed))
    untyped(BARE)
