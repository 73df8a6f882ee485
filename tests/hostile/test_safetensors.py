"""Every way in which a safetensors file can be wrong has a name, and is refused by it."""

import io
import json
import os
import pickle
import socket
import zipfile
from pathlib import Path

import pytest
import torch

from adapterhub import files
from adapterhub.errors import MalformedFile

ENTRY = b'{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'


def raw(header: bytes | object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def one(dtype: object = "U8", shape: object = (1,), offsets: object = (0, 1), data: bytes = b"x") -> bytes:
    return raw({"x": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}, data)


def text(before: bytes = b"", after: bytes = b"", number: bytes = b"1") -> bytes:
    return raw(before + b'{"x":{"dtype":"U8","shape":[' + number + b'],"data_offsets":[0,1]}}' + after, b"x")


def several(*rows: tuple[int, int]) -> dict[str, object]:
    return {f"t{i}": {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]} for i, (begin, end) in enumerate(rows)}  # fmt: skip


def saved(old: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"x": torch.zeros(2)}, buffer, _use_new_zipfile_serialization=not old)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "hello")
    return buffer.getvalue()


REFUSED = {
    # the beginning
    "nothing": (b"", "empty"),
    "seven bytes": (b"\x01\0\0\0\0\0\0", "too-short"),
    "header of no bytes": (bytes(8), "header-length"),
    "header above the format's limit": ((100_000_001).to_bytes(8, "little") + b"{", "header-length"),
    "header length that is negative when signed": ((2**64 - 1).to_bytes(8, "little") + b"{}", "header-length"),
    "header above the file": ((3).to_bytes(8, "little") + b"{}", "header-cut"),
    "header that is cut": (raw({"x": 1})[:-2], "header-cut"),
    # the text
    "not UTF-8": (raw(b'{"\xff":' + ENTRY + b"}", b"x"), "header-not-utf8"),
    "overlong UTF-8": (raw(b'{"\xc0\xaf":' + ENTRY + b"}", b"x"), "header-not-utf8"),
    "surrogate as UTF-8": (raw(b'{"\xed\xa0\x80":' + ENTRY + b"}", b"x"), "header-not-utf8"),
    "byte order mark": (text(before=b"\xef\xbb\xbf"), "header-start"),
    "UTF-16": (raw('{"x":1}'.encode("utf-16")), "header-start"),
    "leading space": (text(before=b" "), "header-start"),
    "array": (raw(b"[]"), "header-start"),
    "second document": (text(after=b"{}"), "header-trailing"),
    "NULs behind": (text(after=b"\0\0"), "header-trailing"),
    "vertical tabs behind": (text(after=b"\x0b"), "header-trailing"),
    "unit separator behind": (text(after=b"\x1c"), "header-trailing"),
    "no-break space behind": (text(after="\u00a0".encode()), "header-trailing"),
    "comment": (raw(b"{/* */}"), "header-not-json"),
    "trailing comma": (raw(b'{"x":' + ENTRY + b",}", b"x"), "header-not-json"),
    "single quotes": (raw(b"{'x':" + ENTRY + b"}", b"x"), "header-not-json"),
    "raw control character": (raw(b'{"a\nb":' + ENTRY + b"}", b"x"), "header-not-json"),
    "unfinished": (raw(b'{"x":' + ENTRY, b"x"), "header-not-json"),
    "lone high surrogate": (raw(rb'{"\ud800":' + ENTRY + b"}", b"x"), "lone-surrogate"),
    "lone low surrogate in metadata": (raw(rb'{"__metadata__":{"a":"\udc00"}}'), "lone-surrogate"),
    "lone surrogate in an unknown field": (text(number=rb'1],"\ud800":[1'), "lone-surrogate"),
    "nested": (raw(b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}"), "header-not-json"),
    "nested objects": (raw(b'{"a":' * 5000 + b"1" + b"}" * 5000), "header-not-json"),
    # numbers
    "NaN": (text(number=b"NaN"), "header-not-json"),
    "infinity": (text(number=b"-Infinity"), "header-not-json"),
    "float": (text(number=b"1.0"), "header-not-json"),
    "exponent": (text(number=b"1e0"), "header-not-json"),
    "minus zero": (raw(b'{"x":{"dtype":"U8","shape":[1],"data_offsets":[-0,1]}}', b"x"), "header-not-json"),
    "minus zero among the axes": (text(number=b"0, -0 "), "header-not-json"),
    "leading zero": (text(number=b"01"), "header-not-json"),
    "hexadecimal": (text(number=b"0x1"), "header-not-json"),
    "100,000 digits": (text(number=b"1" * 100_000), "header-not-json"),
    "boolean axis": (one(shape=[True]), "shape"),
    "text axis": (one(shape=["1"]), "shape"),
    "null axis": (one(shape=[None]), "shape"),
    "boolean offset": (one(offsets=[False, 1]), "offsets"),
    "boolean end": (one(offsets=[0, True]), "offsets"),
    # repeated names
    "name twice": (raw(b'{"x":' + ENTRY + b',"x":' + ENTRY + b"}", b"x"), "duplicate-name"),
    "name twice through an escape": (raw(rb'{"x":' + ENTRY + rb',"\u0078":' + ENTRY + b"}", b"x"), "duplicate-name"),
    "field twice": (raw(b'{"x":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"), "duplicate-name"),
    "field twice, three in all": (raw(b'{"x":{"dtype":"U8","shape":[1],"dtype":"U8"}}', b"x"), "duplicate-name"),
    "unknown field twice, deep": (text(number=b'1],"a":[{"b":1,"b":2}],"c":[1'), "duplicate-name"),
    "metadata twice": (raw(b'{"__metadata__":{},"__metadata__":{}}'), "duplicate-name"),
    "metadata key twice": (raw(b'{"__metadata__":{"a":"b","a":"c"}}'), "duplicate-name"),
    "metadata key twice through an escape": (raw(rb'{"__metadata__":{"a":"b","\u0061":"c"}}'), "duplicate-name"),
    # entries
    "entry that is null": (raw({"x": None}), "entry"),
    "entry that is a number": (raw({"x": 5}), "entry"),
    "entry that is an array": (raw({"x": ["U8", [1], [0, 1]]}, b"x"), "entry"),
    "entry that is an array of pairs": (
        raw({"x": [["dtype", "U8"], ["shape", [1]], ["data_offsets", [0, 1]]]}, b"x"),
        "entry",
    ),
    "no dtype": (raw({"x": {"shape": [1], "data_offsets": [0, 1]}}, b"x"), "entry"),
    "no offsets": (raw({"x": {"dtype": "U8", "shape": [1]}}, b"x"), "entry"),
    "unknown dtype": (one(dtype="F12"), "unknown-dtype"),
    "dtype in small letters": (one(dtype="u8"), "unknown-dtype"),
    "dtype that is a list": (one(dtype=["U8"]), "unknown-dtype"),
    "shape that is a number": (one(shape=1), "shape"),
    "shape that is an object": (one(shape={}), "shape"),
    "shape that is text": (one(shape="1"), "shape"),
    "negative axis": (one(shape=[-1], offsets=[0, 1]), "shape"),
    "two negative axes": (one(shape=[-1, -1]), "shape"),
    "axis above 2**63": (one(shape=[2**63]), "shape"),
    "product that overflows": (one(shape=[2**32, 2**32], offsets=[0, 0], data=b""), "shape"),
    "overflow hidden behind a zero": (one(shape=[2**40, 2**40, 0], offsets=[0, 0], data=b""), "shape"),
    "axis above 2**63 beside a zero": (one(shape=[0, 2**64], offsets=[0, 0], data=b""), "shape"),
    "seventeen axes": (one(shape=[1] * 17), "rank"),
    "three offsets": (one(offsets=[0, 1, 2]), "offsets"),
    "one offset": (one(offsets=[0]), "offsets"),
    "offsets that are text": (one(offsets="01"), "offsets"),
    "offsets that are an object": (one(offsets={"a": 0, "b": 1}), "offsets"),
    "offsets that run backwards": (one(offsets=[1, 0]), "offsets"),
    "negative offsets": (one(offsets=[-1, 0]), "overlap"),
    "shape too large for the bytes": (one(shape=[2]), "length"),
    "shape too small for the bytes": (one(shape=[1], offsets=[0, 2], data=b"xx"), "length"),
    "dtype too wide for the bytes": (one(dtype="F32"), "length"),
    "packed type that ends inside a byte": (one(dtype="F4", shape=[3], offsets=[0, 2], data=b"xx"), "packed"),
    "packed sixes that end inside a byte": (one(dtype="F6_E2M3", shape=[2], offsets=[0, 1]), "packed"),
    # the whole
    "overlap": (raw(several((0, 2), (1, 3)), b"xxx"), "overlap"),
    "alias": (raw(several((0, 2), (0, 2)), b"xx"), "overlap"),
    "hole": (raw(several((0, 1), (2, 3)), b"xxx"), "hole"),
    "start after 0": (one(offsets=[1, 2], data=b"xx"), "hole"),
    "empty tensor inside another": (raw(several((0, 2), (1, 1)), b"xx"), "overlap"),
    "empty tensor behind the end": (raw(several((0, 1), (9, 9)), b"x"), "hole"),
    "past the end": (one(shape=[9], offsets=[0, 9]), "data-size"),
    "near 2**64": (one(shape=[1], offsets=[2**64 - 2, 2**64 - 1]), "hole"),
    "no data": (one(data=b""), "data-size"),
    "a byte too few": (one(shape=[4], offsets=[0, 4], data=b"xxx"), "data-size"),
    "a byte too many": (one(data=b"xx"), "data-size"),
    "a zip behind": (one(data=b"x" + zipped()), "data-size"),
    "a pickle behind": (one(data=b"x" + pickle.dumps([1])), "data-size"),
    "a zip behind an empty header": (raw({}, zipped()), "data-size"),
    # metadata
    "metadata that is a list": (raw({"__metadata__": []}), "metadata"),
    "metadata that is text": (raw({"__metadata__": "x"}), "metadata"),
    "metadata number": (raw({"__metadata__": {"a": 1}}), "metadata"),
    "metadata null": (raw({"__metadata__": {"a": None}}), "metadata"),
    "metadata object": (raw({"__metadata__": {"a": {}}}), "metadata"),
    "metadata number under an empty key": (raw({"__metadata__": {"": 1}}), "metadata"),
    "metadata boolean": (raw({"__metadata__": {"a": True}}), "metadata"),
    # something else
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "lfs-pointer"),
    "HTML page": (b"<!DOCTYPE html><html><body>404</body></html>", "html"),
    "HTML page, small letters, after a line feed": (b"\n  <html lang='en'>", "html"),
    "JSON error": (b'{"error":"Repository not found"}', "json"),
    "pretty JSON": (b'{\n  "error": "Access restricted"\n}', "json"),
    "JSON array": (b'[{"a": 1}, 2]', "json"),
    "bare pickle": (pickle.dumps({"a": 1}), "pickle"),
    "a pickle before a safetensors file": (pickle.dumps({"a": 1}) + one(), "pickle"),
    "zip": (zipped(), "zip"),
    "JPEG": (b"\xff\xd8\xff\xe0" + bytes(64), "jpeg"),
    "GGUF": (b"GGUF\x03\0\0\0" + bytes(64), "gguf"),
    "gzip": (b"\x1f\x8b\x08" + bytes(64), "gzip"),
    "zeros": (bytes(4096), "zeros"),
    "noise": (b"\xf7" * 4096, "header-length"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_malformed_file_is_refused_by_the_name_of_the_rule(tmp_path: Path, what: str, suffix: str) -> None:
    content, rule = REFUSED[what]
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    with pytest.raises(MalformedFile) as caught:
        files.read(path)
    assert caught.value.rule == rule
    assert str(path) in caught.value.message
    assert caught.value.mend
    assert caught.value.exit_status == 3


@pytest.mark.parametrize("name", ["README.md", "noise.bin", "noise.safetensors"])
def test_bytes_of_no_known_kind_are_not_called_a_damaged_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"# A model card of an adapter\n" * 9)
    with pytest.raises(MalformedFile, match="no file of a kind that is known here") as caught:
        files.read(path)
    assert "damaged" not in str(caught.value)
    path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    with pytest.raises(MalformedFile, match="a header of 1152921504606846976 bytes") as caught:
        files.read(path)
    assert "The file is damaged" in str(caught.value)


@pytest.mark.parametrize("old", [False, True])
def test_a_torch_pickle_under_the_name_of_a_safetensors_file_is_refused(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(saved(old))
    with pytest.raises(MalformedFile) as caught:
        files.read(path)
    assert caught.value.rule == "pickle"


LIMITED = {
    "header-too-large": (raw({"__metadata__": {"a": "x" * 100}}), files.Limits(header=64)),
    "too-many-tensors": (raw(several((0, 1), (1, 2), (2, 3)), b"xxx"), files.Limits(tensors=2)),
    "rank": (one(shape=[1, 1, 1]), files.Limits(rank=2)),
    "metadata-too-large": (raw({"__metadata__": {"a": "x" * 100}}), files.Limits(metadata=100)),
}


@pytest.mark.parametrize("rule", LIMITED)
def test_what_is_above_a_limit_is_refused_and_read_once_the_limit_is_raised(tmp_path: Path, rule: str) -> None:
    content, limits = LIMITED[rule]
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    with pytest.raises(MalformedFile) as caught:
        files.read(path, limits=limits)
    assert caught.value.rule == rule
    files.read(path).close()


def test_a_header_above_16_mib_is_refused_unless_the_limit_is_raised_for_this_run(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(raw(b"{}" + b" " * (16 << 20)))
    with pytest.raises(MalformedFile) as caught:
        files.read(path)
    assert caught.value.rule == "header-too-large"
    files.read(path, limits=files.Limits(header=17 << 20)).close()


def test_every_truncation_of_a_file_is_refused(tmp_path: Path) -> None:
    whole = raw({"__metadata__": {"a": "b"}, **several((0, 3), (3, 8))}, b"12345678")
    path = tmp_path / "file.safetensors"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(MalformedFile):
            files.read(path)
    path.write_bytes(whole)
    files.read(path).close()


def test_a_header_that_claims_more_than_the_file_holds_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes((90_000_000).to_bytes(8, "little") + b"{" + b" " * 100)
    with pytest.raises(MalformedFile, match="the file only 101"):
        files.read(path, limits=files.Limits(header=100_000_000))


def test_names_from_the_file_are_escaped_and_cut_in_messages(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(raw({"\x1b[2J\u202e" + "x" * 1000: 5}))
    with pytest.raises(MalformedFile) as caught:
        files.read(path)
    assert r"\x1b[2J\u202e" in caught.value.message
    assert caught.value.message.isascii()
    assert len(caught.value.message) < 400 + len(str(path))


def fifo(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(str(path))


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [fifo, listening, device])
def test_what_is_no_regular_file_is_never_opened(tmp_path: Path, make: object) -> None:
    path = tmp_path / "x.safetensors"
    make(path)  # type: ignore[operator]
    with pytest.raises(MalformedFile) as caught:
        files.read(path)
    assert caught.value.rule == "not-a-regular-file"
