"""Reading one safetensors file: the values, the order, the laziness, and what is odd but harmless."""

import gc
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from adapterhub import files
from adapterhub.errors import MalformedFile, UsageError
from adapterhub.files.source import PIECE
from adapterhub.tensors import DTYPE_BITS


def raw(header: object, data: bytes = b"", pad: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header, ensure_ascii=False).encode()
    return (len(text) + len(pad)).to_bytes(8, "little") + text + pad + data


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.safetensors"


def codes(package: files.Package) -> set[str]:
    return {problem.code for problem in package.problems}


def test_a_file_of_the_reference_writer_is_read_with_its_values_and_metadata(path: Path) -> None:
    tensors = {"b": torch.arange(6, dtype=torch.float16).reshape(2, 3), "a": torch.ones(4, dtype=torch.bfloat16)}
    safetensors.torch.save_file(tensors, path, {"ss_network_dim": "8"})
    with files.read(path) as package:
        assert (package.container, package.size, package.paths) == (
            "safetensors", path.stat().st_size, {path.name: path},
        )  # fmt: skip
        assert package.only.metadata == {"ss_network_dim": "8"}
        assert {name: (t.dtype, t.shape) for name, t in package.only.tensors.items()} == {
            "a": ("BF16", (4,)), "b": ("F16", (2, 3)),
        }  # fmt: skip
        assert package.only.tensors["b"].read() == np.arange(6, dtype="<f2").tobytes()
        assert package.only.tensors["a"].read() == b"\x80\x3f" * 4
        assert package.problems == ()


def test_tensors_stand_in_the_order_of_their_bytes_whatever_the_order_of_the_header(path: Path) -> None:
    path.write_bytes(
        raw({"c": entry("U8", [1], 3, 4), "a": entry("U8", [2], 1, 3), "z": entry("U8", [0], 1, 1), "b": entry("U8", [1], 0, 1)},
            b"bAAc")
    )  # fmt: skip
    with files.read(path) as package:
        assert [(name, tensor.read()) for name, tensor in package.only.tensors.items()] == [
            ("b", b"b"), ("z", b""), ("a", b"AA"), ("c", b"c"),
        ]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPE_BITS)
def test_every_dtype_of_the_format_is_read_as_its_bytes(path: Path, dtype: str) -> None:
    size = DTYPE_BITS[dtype]
    path.write_bytes(raw({"x": entry(dtype, [2, 4], 0, size)}, bytes(range(size))))
    with files.read(path) as package:
        tensor = package.only.tensors["x"]
        assert (tensor.dtype, tensor.shape, tensor.read()) == (dtype, (2, 4), bytes(range(size)))


@pytest.mark.parametrize("dtype", DTYPE_BITS)
def test_the_reference_accepts_the_same_dtypes(dtype: str) -> None:
    size = DTYPE_BITS[dtype]
    ((name, found),) = safetensors.deserialize(raw({"x": entry(dtype, [2, 4], 0, size)}, bytes(size)))
    assert (name, len(found["data"])) == ("x", size)


ACCEPTED = {
    "no tensor at all": raw({}),
    "a scalar": raw({"x": entry("F32", [], 0, 4)}, bytes(4)),
    "a zero-size tensor": raw({"x": entry("F32", [3, 0, 2], 0, 0)}),
    "fields in another order": raw({"x": {"data_offsets": [0, 4], "shape": [1], "dtype": "F32"}}, bytes(4)),
    "padding by spaces": raw({"x": entry("F32", [1], 0, 4)}, bytes(4), b" " * 77),
    "empty metadata": raw({"__metadata__": {}, "x": entry("F32", [1], 0, 4)}, bytes(4)),
    "metadata after the tensors": raw({"x": entry("F32", [1], 0, 4), "__metadata__": {"a": "b"}}, bytes(4)),
    "white space inside": raw(json.dumps({"x": entry("F32", [1], 0, 4)}, indent=4).encode(), bytes(4)),
    "names that differ in case": raw({"x": entry("U8", [1], 0, 1), "X": entry("U8", [1], 1, 2)}, bytes(2)),
    "names that differ in normalisation": raw({"\u00e9": entry("U8", [1], 0, 1), "e\u0301": entry("U8", [1], 1, 2)}, bytes(2)),
    "names of other scripts": raw({"重み.😀": entry("U8", [1], 0, 1)}, bytes(1)),
    "escaped names, surrogate pairs": raw(rb'{"\ud83d\ude00\u00e9":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"),
    "3,000 tensors": raw({f"t{i}": entry("U8", [1], i, i + 1) for i in range(3000)}, bytes(3000)),
    "sixteen axes": raw({"x": entry("U8", [1] * 16, 0, 1)}, bytes(1)),
}  # fmt: skip


@pytest.mark.parametrize("what", ACCEPTED)
def test_what_the_format_allows_is_accepted_without_a_word(path: Path, what: str) -> None:
    path.write_bytes(ACCEPTED[what])
    with files.read(path) as package:
        assert package.problems == ()
        assert set(package.only.tensors) == {name for name, _ in safetensors.deserialize(ACCEPTED[what])}


def named(name: str) -> bytes:
    return raw({name: entry("U8", [1], 0, 1)}, b"x")


def told(text: str, key: str = "note") -> bytes:
    return raw({"__metadata__": {key: text}})


ODD = {
    "unknown field": (raw({"x": {**entry("U8", [1], 0, 1), "extra": {"deep": [1]}}}, b"x"), "unknown-field"),
    "null metadata": (raw({"__metadata__": None}), "metadata-null"),
    "padding by line feeds": (raw({}, pad=b"\n\n  \t"), "odd-padding"),
    "empty name": (named(""), "empty-name"),
    "enormous name": (named("x" * 1025), "enormous-name"),
    "enormous odd name": (named("/" + "x" * 1025), "enormous-name"),
    "path up": (named("../../etc/passwd"), "path-like-name"),
    "backslashes": (named(r"..\x"), "path-like-name"),
    "drive": (named("C:x"), "path-like-name"),
    "dots": (named(".."), "path-like-name"),
    "escape sequence in a name": (named("\x1b[31m"), "control-characters"),
    "NUL in a name": (named("a\0b"), "control-characters"),
    "line feed in a name": (named("a\nb"), "control-characters"),
    "override in a name": (named("a\u202eb"), "bidirectional-text"),
    "NUL in metadata": (told("a\0b"), "control-characters"),
    "delete in metadata": (told("\x7f"), "control-characters"),
    "C1 control in metadata": (told("\x9b31m"), "control-characters"),
    "control in a metadata key": (told("x", "a\x07"), "control-characters"),
    "override in metadata": (told("\u2066x"), "bidirectional-text"),
    "script": (told("<script>alert(1)</script>"), "active-text"),
    "picture": (told('<IMG src="http://x/y">'), "active-text"),
    "template": (told("{{ 7 * 7 }}"), "active-text"),
    "yaml": (told("!!python/object/apply:os.system [id]"), "active-text"),
    "sql": (told("'); DROP TABLE models; --"), "active-text"),
    "script url": (told("JavaScript:alert(1)"), "active-text"),
    "file url": (told("file:///etc/passwd"), "active-text"),
}


@pytest.mark.parametrize("what", ODD)
def test_what_is_odd_but_harmless_is_accepted_with_a_warning(path: Path, what: str) -> None:
    content, code = ODD[what]
    path.write_bytes(content)
    with files.read(path) as package:
        assert code in codes(package)
        assert {problem.severity for problem in package.problems} == {"warning"}


@pytest.mark.parametrize(
    "text",
    ["two\nlines\tand a tab", "https://github.com/kohya-ss/sd-scripts", "<s0><s1>, a <lora:x:1> prompt", "naïve 重み 😀",
     "[-0, 1]", '{"tag": 1, "ok": "a < b"}', "2024-01-05"],
)  # fmt: skip
def test_ordinary_metadata_raises_no_warning(path: Path, text: str) -> None:
    path.write_bytes(told(text))
    with files.read(path) as package:
        assert package.problems == ()
        assert package.only.metadata == {"note": text}


def test_one_warning_stands_for_all_names_that_are_odd_in_the_same_way(path: Path) -> None:
    path.write_bytes(raw({f"a/{i}": entry("U8", [1], i, i + 1) for i in range(1000)}, bytes(1000)))
    with files.read(path) as package:
        (problem,) = package.problems
        assert (problem.where, problem.message) == ("a/0", "the name (and 999 more) looks like a path")


def test_a_large_tensor_comes_in_pieces_and_as_often_as_it_is_asked_for(path: Path) -> None:
    data = os.urandom(2 * PIECE + 3)
    path.write_bytes(raw({"x": entry("U8", [len(data)], 0, len(data))}, data))
    with files.read(path) as package:
        tensor = package.only.tensors["x"]
        for _ in range(2):
            pieces = list(tensor.chunks())
            assert [len(piece) for piece in pieces] == [PIECE, PIECE, 3]
            assert b"".join(pieces) == data


def test_a_suffix_never_selects_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(named("x"))
    with files.read(path) as package:
        assert (package.container, list(package.only.tensors)) == ("safetensors", ["x"])


def test_a_missing_path_is_a_wrong_request(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        files.read(tmp_path / "nothing.safetensors")
    with pytest.raises(UsageError, match="no file name"):
        files.read(Path("a\0b"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="does not exist"):
        files.read(tmp_path / "file" / "below")


CHANGES = {
    "longer": lambda path: path.open("ab").write(b"x"),
    "shorter": lambda path: os.truncate(path, path.stat().st_size - 1),
    "touched": lambda path: os.utime(path, ns=(1, 1)),
    "replaced": lambda path: path.with_name("other").replace(path),
    "removed": os.remove,
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_file_that_changes_while_it_is_read_is_refused(path: Path, how: str) -> None:
    path.write_bytes(named("x"))
    path.with_name("other").write_bytes(named("x"))
    with files.read(path) as package:
        package.ensure_unchanged()
        CHANGES[how](path)
        with pytest.raises(MalformedFile) as caught:
            package.ensure_unchanged()
    assert caught.value.rule == "changed-while-reading"


def test_a_file_cut_short_after_it_was_opened_is_refused_when_its_bytes_are_asked_for(path: Path) -> None:
    path.write_bytes(raw({"x": entry("U8", [PIECE + 9], 0, PIECE + 9)}, bytes(PIECE + 9)))
    with files.read(path) as package:
        os.truncate(path, path.stat().st_size - 1)
        with pytest.raises(MalformedFile, match="changed while it was read"):
            package.only.tensors["x"].read()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_descriptors_are_closed_with_the_package_and_with_the_last_tensor(path: Path) -> None:
    path.write_bytes(named("x"))
    before = descriptors()
    with files.read(path) as package:
        tensor = package.only.tensors["x"]
        assert descriptors() == before + 1
    assert descriptors() == before
    with pytest.raises(ValueError, match="closed"):
        tensor.read()
    tensor = files.read(path).only.tensors["x"]
    assert tensor.read() == b"x"
    del tensor
    gc.collect()
    assert descriptors() == before


def test_a_refused_file_leaves_no_descriptor_open(path: Path) -> None:
    path.write_bytes(b"x" * 100)
    before = descriptors()
    with pytest.raises(MalformedFile):
        files.read(path)
    assert descriptors() == before


def test_a_package_of_several_files_has_no_only_one() -> None:
    package = files.Package.new({"a": files.File({}), "b": files.File({})})
    assert package.container == "directory"
    with pytest.raises(ValueError, match="2 files where one was expected: a, b"):
        _ = package.only


def test_hashes_are_those_of_the_whole_file_and_of_what_follows_the_header(path: Path) -> None:
    content = raw({"x": entry("U8", [5], 0, 5)}, b"hello")
    path.write_bytes(content)
    assert files.sha256(path) == hashlib.sha256(content).hexdigest()
    assert files.data_sha256(path) == hashlib.sha256(b"hello").hexdigest()


def test_reading_and_writing_import_neither_torch_nor_numpy_nor_pydantic(path: Path) -> None:
    path.write_bytes(named("x"))
    script = (
        "import sys; from pathlib import Path; from adapterhub import files; p = Path(sys.argv[1]);"
        "files.write(files.read(p), p.with_name('out')); print([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
