"""Writing: the bytes are those of the reference, deterministic, hashed as they are, and published whole or not at all."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

from adapterhub import files
from adapterhub.errors import OutputExists, UsageError
from adapterhub.files import File, Package
from adapterhub.files.source import PIECE
from adapterhub.tensors import LazyTensor, from_bytes, stack_rows

TORCH = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "U16": torch.uint16, "I32": torch.int32,
    "U32": torch.uint32, "I64": torch.int64, "U64": torch.uint64, "F16": torch.float16, "BF16": torch.bfloat16,
    "F32": torch.float32, "F64": torch.float64, "C64": torch.complex64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu, "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.safetensors"


def one(**tensors: LazyTensor) -> Package:
    return Package.new({"any": File(tensors)})


def bytes_of(size: int) -> LazyTensor:
    return from_bytes("U8", (size,), os.urandom(size))


def split(content: bytes) -> tuple[str, bytes]:
    end = 8 + int.from_bytes(content[:8], "little")
    return content[8:end].decode(), content[end:]


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_header_and_data_are_what_the_reference_writes_for_the_same_tensors(path: Path) -> None:
    made = {
        f"{letter}.{dtype}": torch.randint(0, 2, (3, 2)).to(kind) for dtype, kind in TORCH.items() for letter in "ba"
    }
    ours = {
        name: from_bytes(name[2:], (3, 2), tensor.view(torch.uint8).numpy().tobytes()) for name, tensor in made.items()
    }
    files.write(Package.new({"x": File(ours, {"format": "pt", "a": "1"})}), path)
    header, data = split(path.read_bytes())
    reference, reference_data = split(safetensors.torch.save(made, {"format": "pt", "a": "1"}))
    assert data == reference_data
    assert json.loads(header) == json.loads(reference)
    assert [name for name in json.loads(header) if name != "__metadata__"] == [
        name for name in json.loads(reference) if name != "__metadata__"
    ]


def test_the_reference_reads_values_and_metadata_back(path: Path) -> None:
    metadata = {"ünï": '重み 😀\n\t"\\', "b": ""}
    values = {"x": np.arange(6, dtype="<f4").reshape(2, 3), "": np.array(7, "<i8"), "空": np.zeros((0, 4), "<f2")}
    kinds = {"x": "F32", "": "I64", "空": "F16"}
    tensors = {name: from_bytes(kinds[name], value.shape, value.tobytes()) for name, value in values.items()}
    files.write(Package.new({"x": File(tensors, metadata)}), path)
    with safetensors.safe_open(path, "np") as opened:
        assert opened.metadata() == metadata
        assert set(opened.keys()) == set(values)
        for name, value in values.items():
            np.testing.assert_array_equal(opened.get_tensor(name), value)


def test_the_header_begins_with_sorted_metadata_and_ends_in_a_kibibyte_of_spaces(path: Path) -> None:
    files.write(Package.new({"x": File({"t": bytes_of(3)}, {"b": "2", "a": "1"})}), path)
    content = path.read_bytes()
    header, data = split(content)
    text = header.rstrip(" ")
    assert text == '{"__metadata__":{"a":"1","b":"2"},"t":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}'
    assert len(header) % 8 == 0
    assert 1024 <= len(header) - len(text) < 1024 + 8
    assert content[8:10] == b'{"'
    assert len(data) == 3


def test_empty_metadata_is_left_out(path: Path) -> None:
    files.write(one(t=bytes_of(1)), path)
    assert split(path.read_bytes())[0].startswith('{"t":')


def test_the_bytes_depend_on_neither_the_order_of_tensors_nor_that_of_metadata(tmp_path: Path) -> None:
    tensors = {
        "b": from_bytes("F16", (1,), b"ab"),
        "a": from_bytes("F16", (1,), b"cd"),
        "c": from_bytes("F32", (), bytes(4)),
    }
    metadata = {"y": "1", "x": "2"}
    for name, turn in (("1", lambda pairs: pairs), ("2", lambda pairs: pairs[::-1])):
        file = File(dict(turn(list(tensors.items()))), dict(turn(list(metadata.items()))))
        files.write(Package.new({"x": file}), tmp_path / name)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    assert split((tmp_path / "1").read_bytes())[1] == bytes(4) + b"cd" + b"ab"


def test_what_is_returned_is_the_hash_of_the_written_file(path: Path) -> None:
    written = files.write(one(a=bytes_of(PIECE + 1), b=bytes_of(10)), path)
    assert written == {"out.safetensors": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_a_hashed_field_holds_the_hash_of_the_data(path: Path) -> None:
    metadata = {"sshs_model_hash": files.DIGEST, "modelspec.hash_sha256": f"0x{files.DIGEST}", "other": files.DIGEST}
    package = Package.new({"x": File({"a": bytes_of(PIECE + 1)}, metadata)})
    written = files.write(package, path, hashed=["sshs_model_hash", "modelspec.hash_sha256", "absent"])
    digest = hashlib.sha256(split(path.read_bytes())[1]).hexdigest()
    assert files.data_sha256(path) == digest
    assert written == {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    with files.read(path) as back:
        assert back.only.metadata == {
            "sshs_model_hash": digest, "modelspec.hash_sha256": f"0x{digest}", "other": files.DIGEST,
        }  # fmt: skip


SIZES = [0, 1, 7, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5]


def test_pieces_of_any_size_are_written_in_their_order(path: Path) -> None:
    tensors = {f"{place:02}": bytes_of(size) for place, size in enumerate(SIZES + SIZES[::-1])}
    tensors["99"] = stack_rows(list(tensors.values()))
    files.write(Package.new({"x": File(tensors)}), path)
    with files.read(path) as back:
        for name, tensor in tensors.items():
            assert back.only.tensors[name].read() == tensor.read()


def test_buffers_that_are_filled_again_are_copied_in_time(path: Path) -> None:
    def chunks() -> Iterator[memoryview]:
        buffer = bytearray(1 << 21)
        for value in range(8):
            buffer[:] = bytes([value]) * len(buffer)
            yield memoryview(buffer)

    digest = files.write(one(x=LazyTensor("U8", (8, 1 << 21), chunks)), path)
    content = path.read_bytes()
    assert split(content)[1] == b"".join(bytes([value]) * (1 << 21) for value in range(8))
    assert digest == {path.name: hashlib.sha256(content).hexdigest()}


def test_arrays_of_any_type_and_rank_are_taken_as_their_bytes(path: Path) -> None:
    array = np.arange(12, dtype="<f4").reshape(3, 4)
    files.write(one(x=LazyTensor("F32", (3, 4), lambda: (array.data,))), path)
    assert split(path.read_bytes())[1] == array.tobytes()


@pytest.mark.parametrize("given", [b"", b"123", b"12345"])
@pytest.mark.parametrize("force", [False, True])
def test_a_tensor_that_gives_other_than_it_promises_is_an_error_and_nothing_is_written(
    path: Path, given: bytes, force: bool
) -> None:
    if force:
        path.write_text("old")
    with pytest.raises(ValueError, match=f"'x' gave {len(given)} bytes instead of 4"):
        files.write(one(x=LazyTensor("F32", (), lambda: (given,))), path, force=force)
    assert names(path.parent) == (["out.safetensors"] if force else [])
    assert not force or path.read_text() == "old"


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_whatever_is_raised_on_the_way_leaves_the_old_file_and_no_other(
    path: Path, failure: type[BaseException]
) -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(PIECE)
        raise failure

    path.write_text("old")
    with pytest.raises(failure):
        files.write(one(x=LazyTensor("U8", (2 * PIECE,), chunks)), path, force=True)
    assert names(path.parent) == ["out.safetensors"]
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (File({"__metadata__": from_bytes("U8", (0,), b"")}), "no tensor can be named"),
        (File({}, {"a": 1}), "strings only"),  # type: ignore[dict-item]
        (File({"x": LazyTensor("F4", (3,), lambda: ())}), "ends inside a byte"),
        (File({"\ud800": from_bytes("U8", (0,), b"")}), "surrogates not allowed"),
    ],
)
def test_what_the_format_cannot_hold_is_not_written(path: Path, file: File, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        files.write(Package.new({"x": file}), path)
    assert names(path.parent) == []


def test_an_existing_target_is_refused_before_anything_is_read_and_replaced_by_force(path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        raise AssertionError("read")

    path.write_text("old")
    with pytest.raises(OutputExists):
        files.write(one(x=LazyTensor("U8", (1,), chunks)), path)
    assert path.read_text() == "old"
    files.write(one(x=bytes_of(1)), path, force=True)
    assert path.read_bytes()[8:10] == b'{"'
    assert names(path.parent) == ["out.safetensors"]


def test_a_target_that_appears_while_writing_is_not_overwritten(path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        path.write_text("theirs")
        yield b"x"

    with pytest.raises(OutputExists):
        files.write(one(x=LazyTensor("U8", (1,), chunks)), path)
    assert path.read_text() == "theirs"
    assert names(path.parent) == ["out.safetensors"]


def test_a_target_that_is_a_link_is_replaced_and_not_followed(tmp_path: Path, path: Path) -> None:
    (tmp_path / "precious").write_text("old")
    path.symlink_to("precious")
    with pytest.raises(OutputExists):
        files.write(one(x=bytes_of(1)), path)
    files.write(one(x=bytes_of(1)), path, force=True)
    assert (tmp_path / "precious").read_text() == "old"
    assert not path.is_symlink()


def test_a_link_to_nothing_counts_as_a_target_that_exists(path: Path) -> None:
    path.symlink_to("nothing")
    with pytest.raises(OutputExists):
        files.write(one(x=bytes_of(1)), path)


@pytest.mark.parametrize("how", ["itself", "link", "hard link", "by another path", "named by the caller"])
def test_an_input_is_never_overwritten(tmp_path: Path, how: str) -> None:
    source, target = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    files.write(one(x=bytes_of(5)), source)
    before = source.read_bytes()
    if how == "link":
        target.symlink_to(source)
    elif how == "hard link":
        target.hardlink_to(source)
    else:
        target = tmp_path / "sub" / ".." / source.name if how == "by another path" else source
        (tmp_path / "sub").mkdir()
    with files.read(source) as package:
        given, named = (one(x=bytes_of(1)), [source]) if how == "named by the caller" else (package, [])
        with pytest.raises(UsageError, match="an input is never overwritten"):
            files.write(given, target, force=True, sources=named)
    assert source.read_bytes() == before


def test_a_folder_or_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for name in ("folder", "fifo"):
        with pytest.raises(UsageError, match="is no file"):
            files.write(one(x=bytes_of(1)), tmp_path / name, force=True)
    assert names(tmp_path) == ["fifo", "folder"]


def test_a_target_without_a_folder_or_a_name_is_a_wrong_request(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder that exists"):
        files.write(one(x=bytes_of(1)), tmp_path / "sub" / "x")
    for path in (Path("/"), Path(".."), Path()):
        with pytest.raises(UsageError, match="names no file"):
            files.write(one(x=bytes_of(1)), path)


@pytest.mark.parametrize(
    "name", ["x" * 255, "é" * 127, "-rf", "a b\nc", "\x1b[31m", b"\xff\xfe".decode("utf-8", "surrogateescape")]
)
def test_any_file_name_can_be_written(tmp_path: Path, name: str) -> None:
    files.write(one(x=bytes_of(1)), tmp_path / name)
    files.write(one(x=bytes_of(2)), tmp_path / name, force=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_written_file_has_the_permissions_of_any_new_file(path: Path) -> None:
    old = os.umask(0o027)
    try:
        files.write(one(x=bytes_of(1)), path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
