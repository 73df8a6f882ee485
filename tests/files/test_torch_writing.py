"""Torch files as we write them: what lies in the archive and where, the same tree when they are read, or no file at all."""

import hashlib
import math
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterhub import files
from adapterhub.errors import UsageError
from adapterhub.files import TORCH_ZIP, File, Package
from adapterhub.files.pickles.values import Record
from adapterhub.files.source import PIECE
from adapterhub.tensors import DTYPE_BITS, LazyTensor, from_bytes, length

ROWS = from_bytes("F32", (2, 3), bytes(range(24)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.pt"


def torch_file(tree: Any, **tensors: LazyTensor) -> Package:
    return Package.new({"any": File(tensors, tree=tree, container=TORCH_ZIP)})


def plain(value: Any) -> Any:
    """A tree that can be compared: tensors as what they hold, and every container with its type."""
    if isinstance(value, LazyTensor):
        return value.dtype, value.shape, value.read()
    if isinstance(value, dict):
        return "dict", [(type(key), key, plain(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [plain(item) for item in value]
    return type(value), value


def members(path: Path) -> list[tuple[str, int, bytes]]:
    """Every name, where its bytes begin by its own header, and the bytes."""
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        rows = []
        for info in archive.infolist():
            lengths = struct.unpack_from("<2H", content, info.header_offset + 26)
            rows.append((info.filename, info.header_offset + 30 + sum(lengths), archive.read(info)))
        return rows


def test_the_archive_holds_the_pickle_the_storages_and_the_version_and_nothing_else(path: Path) -> None:
    other = from_bytes("I64", (), bytes(8))
    files.write(torch_file({"a": ROWS, "b": [other, ROWS]}), path)
    (pickled, _, _), *rest = members(path)
    assert pickled == "archive/data.pkl"
    assert [(name, content) for name, _, content in rest] == [
        ("archive/data/0", ROWS.read()), ("archive/data/1", bytes(8)), ("archive/version", b"3\n"),
    ]  # fmt: skip


def test_every_member_is_stored_aligned_complete_before_its_data_and_without_a_date(path: Path) -> None:
    files.write(torch_file([from_bytes("U8", (size,), os.urandom(size)) for size in (0, 1, 63, 64, 65)]), path)
    content = path.read_bytes()
    for name, start, data in members(path):
        raw = name.encode()
        assert start % 64 == 0
        begin = content.rindex(b"PK\3\4", 0, start)
        extra = content[begin + 30 + len(raw) : start]
        assert content[begin:start] == (
            b"PK\3\4" + struct.pack("<5H3L2H", 45, 0, 0, 0, 33, zlib.crc32(data), len(data), len(data), len(raw), len(extra))
            + raw + extra
        )  # fmt: skip
        assert extra == b"FB" + struct.pack("<H", len(extra) - 4) + b"Z" * (len(extra) - 4)
        assert 4 <= len(extra) < 68
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_the_pickle_of_a_tensor_is_this(path: Path) -> None:
    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    files.write(torch_file({"x": ROWS}), path)
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(6) + b"tQ"
    view = number(0) + b"(" + number(2) + number(3) + b"t(" + number(3) + number(1) + b"t\x89"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + view + b"ccollections\nOrderedDict\n(tRtR"
    assert members(path)[0][2] == b"\x80\x02}" + text("x") + call + b"s."


def test_what_is_returned_is_the_hash_of_the_written_file_unless_it_is_not_to_be_read_again(tmp_path: Path) -> None:
    one, two = tmp_path / "1.pt", tmp_path / "2.pt"
    written = files.write(torch_file({"x": ROWS}), one, hashed=["sshs_model_hash"])
    assert written == {"1.pt": hashlib.sha256(one.read_bytes()).hexdigest()}
    assert files.write(torch_file({"x": ROWS}), two, reread=False) == {"2.pt": None}
    assert one.read_bytes() == two.read_bytes()


def test_a_file_without_a_tree_is_the_dictionary_of_its_tensors(path: Path) -> None:
    files.write(torch_file(None, b=ROWS, a=from_bytes("BOOL", (2,), b"\0\1")), path)
    with files.read(path) as back:
        assert plain(back.only.tree) == plain({"b": ROWS, "a": from_bytes("BOOL", (2,), b"\0\1")})


def test_a_torch_file_in_a_folder_is_one_among_others(tmp_path: Path) -> None:
    made = {"a.bin": File({}, tree={"x": ROWS}, container=TORCH_ZIP), "b.safetensors": File({"x": ROWS})}
    written = files.write(Package.new(made, {"config.json": {}}), tmp_path / "out")
    for name in made:
        with files.read(tmp_path / "out" / name) as back:
            assert back.container == ("torch-zip" if name == "a.bin" else "safetensors")
            assert back.only.tensors["x"].read() == ROWS.read()
        assert written[name] == hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest()


def test_the_proof_sees_the_whole_file_before_it_is_there(path: Path) -> None:
    def prove(written: Path) -> None:
        assert not path.exists()
        with files.read(written) as back:
            assert back.only.tree["x"].read() == ROWS.read()
        raise RuntimeError("refuted")

    with pytest.raises(RuntimeError, match="refuted"):
        files.write(torch_file({"x": ROWS}), path, prove=prove)
    assert list(path.parent.iterdir()) == []


PACKED = ("F4", "F6_E2M3", "F6_E3M2")
LEAVES = (
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.binary(max_size=9)
    | st.integers(-(2**255), 2**255 - 1) | st.integers(-300, 70_000) | st.text(st.characters(exclude_categories=["Cs"]))
)  # fmt: skip
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.integers(-(2**61) + 1, 2**61 - 1)


@st.composite
def tensors(draw: st.DrawFn) -> LazyTensor:
    dtype = draw(st.sampled_from([dtype for dtype in DTYPE_BITS if dtype not in PACKED]))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    size = length(dtype, shape)
    return from_bytes(dtype, shape, draw(st.binary(min_size=size, max_size=size)))


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    dictionaries = st.dictionaries(KEYS, inner, max_size=4)
    return dictionaries | dictionaries.map(OrderedDict) | st.lists(inner, max_size=4) | st.lists(inner).map(tuple)


@settings(max_examples=100, deadline=None)
@given(st.recursive(LEAVES | tensors(), containers, max_leaves=12))
def test_any_tree_is_read_back_with_its_types_and_order_and_written_twice_alike(tree: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, again = Path(folder, "x.pt"), Path(folder, "y.pt")
        files.write(torch_file([tree]), path)
        with files.read(path) as back:
            assert plain(back.only.tree) == plain([tree])
            files.write(torch_file([tree]), again)
        assert path.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("value", [math.inf, -math.inf, -0.0, 5e-324, float.fromhex("0x1.fffffffffffffp+1023")])
def test_floats_keep_their_bits(path: Path, value: float) -> None:
    files.write(torch_file([value, math.nan]), path)
    with files.read(path) as back:
        assert struct.pack(">d", back.only.tree[0]) == struct.pack(">d", value)
        assert math.isnan(back.only.tree[1])


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else []


def ring() -> Any:
    made: dict[str, Any] = {"a": []}
    made["a"].append(made)
    return made


REFUSED = {
    "a packed tensor": ({"a": [from_bytes("F4", (2,), b"x")]}, "the tensor 'a.0' is F4"),
    "a tensor of six bits": ({768: (LazyTensor("F6_E2M3", (4,), lambda: ()),)}, "the tensor '768.0' is F6_E2M3"),
    "a set": ({"a": {"b": {1}}}, "type set, .*: 'a.b'"),
    "an object": ({"a": Record("x")}, "type Record, .*: 'a'"),
    "a number of numpy's kind": ([type("float64", (float,), {})()], "type float64, .*: '0'"),
    "a tuple as a key": ({"a": {(1, 2): 3}}, "type tuple, .*: 'a'"),
    "a tensor as a key": ({ROWS: 1}, "type LazyTensor, .*: ''"),
    "an integer beyond our reader": ({"a": 1 << 255}, "integer of 33 bytes, .*: 'a'"),
    "a negative one": ({"a": -(1 << 255) - 1}, "integer of 33 bytes, .*: 'a'"),
    "half a surrogate pair": (["\ud800"], "half a surrogate pair, .*: '0'"),
    "too many containers in one another": (nested(64), "more than 64 containers in one another"),
    "a container in itself": (ring(), "more than 64 containers in one another"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_torch_files_do_not_hold_is_named_and_nothing_is_written(path: Path, case: str) -> None:
    tree, message = REFUSED[case]
    with pytest.raises(UsageError, match=message):
        files.write(torch_file(tree), path)
    assert list(path.parent.iterdir()) == []


def test_as_many_containers_in_one_another_as_our_reader_takes_are_written(path: Path) -> None:
    files.write(torch_file(nested(63)), path)
    with files.read(path) as back:
        assert back.only.tree == nested(63)


@pytest.mark.parametrize("container", ["torch-legacy", "safetensors-sharded", "directory"])
def test_a_container_without_a_writer_is_a_wrong_request(path: Path, container: str) -> None:
    package = Package.new({"x": File({"x": ROWS}, container=container)}, container="safetensors")
    with pytest.raises(UsageError, match=f"no writer for {container}\nThese are written: .*torch-zip"):
        files.write(package, path)
    assert list(path.parent.iterdir()) == []


def test_a_cover_is_an_input_and_never_overwritten(tmp_path: Path) -> None:
    cover = tmp_path / "cover.png"
    cover.write_bytes(b"picture")
    package = Package.new({"x": File({}, tree={"x": ROWS}, container="png", cover=cover)})
    with pytest.raises(UsageError, match="an input is never overwritten"):
        files.write(package, cover, force=True)
    assert cover.read_bytes() == b"picture"


@pytest.mark.parametrize("given", [b"", b"123", b"12345"])
def test_a_tensor_that_gives_other_than_it_promises_is_named_and_the_old_file_stays(path: Path, given: bytes) -> None:
    path.write_text("old")
    with pytest.raises(ValueError, match=rf"'a\.0' gave {len(given)} bytes instead of 4"):
        files.write(torch_file({"a": [LazyTensor("F32", (), lambda: (given,))]}), path, force=True)
    assert [(found.name, found.read_text()) for found in path.parent.iterdir()] == [("out.pt", "old")]


def test_pieces_and_buffers_of_any_size_are_written_in_their_order(path: Path) -> None:
    def refilled() -> Iterator[memoryview]:
        buffer = bytearray(1 << 21)
        for value in range(4):
            buffer[:] = bytes([value]) * len(buffer)
            yield memoryview(buffer)

    sizes = [PIECE + 1, 0, (1 << 20) + 1, 7]
    made = {str(size): from_bytes("U8", (size,), os.urandom(size)) for size in sizes}
    files.write(torch_file({**made, "refilled": LazyTensor("U8", (4, 1 << 21), refilled)}), path)
    with files.read(path) as back:
        assert {name: back.only.tensors[name].read() for name in made} == {k: t.read() for k, t in made.items()}
        assert back.only.tensors["refilled"].read() == b"".join(bytes([value]) * (1 << 21) for value in range(4))


LARGE = """
import re, sys
from pathlib import Path
from adapterhub import files
from adapterhub.files import File, Package
from adapterhub.tensors import LazyTensor
piece = bytes(1 << 22)
tensor = LazyTensor("F32", (25, 1 << 20), lambda: (piece for _ in range(25)))
files.write(Package.new({"x": File({}, tree={"a": tensor, "b": [tensor]}, container="torch-zip")}), Path(sys.argv[1]))
peak = int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(peak < 60 << 10, "torch" in sys.modules, "numpy" in sys.modules)
"""


def test_a_large_file_is_written_in_little_memory_without_torch_and_numpy(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LARGE, path], capture_output=True, text=True)
    assert done.stdout == "True False False\n", done.stderr
    assert 100 << 20 < path.stat().st_size < 101 << 20
