"""Shards that an index joins are one file to everyone else."""

import json
import os
from pathlib import Path

import pytest
import safetensors.numpy

from adapterhub import files
from adapterhub.errors import MalformedFile, UsageError
from adapterhub.files import File, Package
from adapterhub.tensors import from_bytes

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def shard(path: Path, *names: str) -> None:
    tensors = {name: from_bytes("U8", (4,), name.encode() * 4) for name in names}
    files.write(Package.new({"x": File(tensors, {"format": "pt"})}), path, force=True)


def index(folder: Path, weight_map: object, **metadata: object) -> Path:
    path = folder / INDEX
    path.write_text(json.dumps({"metadata": metadata, "weight_map": weight_map}))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shard(tmp_path / FIRST, "a", "c")
    shard(tmp_path / SECOND, "b")
    index(tmp_path, {"a": FIRST, "b": SECOND, "c": FIRST}, total_size=12)
    return tmp_path


@pytest.mark.parametrize("name", ["", INDEX])
def test_shards_are_one_file(folder: Path, name: str) -> None:
    with files.read(folder / name) as package:
        assert (package.container, list(package.files)) == ("safetensors-sharded", ["model.safetensors"])
        assert {name: tensor.read() for name, tensor in package.only.tensors.items()} == {
            "a": b"aaaa", "c": b"cccc", "b": b"bbbb",
        }  # fmt: skip
        assert package.only.metadata == {"format": "pt"}
        assert package.paths == {FIRST: (folder / FIRST).resolve(), SECOND: (folder / SECOND).resolve()}
        assert package.size == sum(path.stat().st_size for path in package.paths.values())
        assert package.problems == ()


def test_shards_are_written_as_a_single_file(folder: Path) -> None:
    target = folder / "out" / "whole.safetensors"
    target.parent.mkdir()
    with files.read(folder) as package:
        files.write(package, target)
    assert {name: bytes(value) for name, value in safetensors.numpy.load_file(target).items()} == {
        name: name.encode() * 4 for name in "abc"
    }


def test_an_index_without_a_total_is_accepted(folder: Path) -> None:
    with files.read(index(folder, {"a": FIRST, "b": SECOND, "c": FIRST})) as package:
        assert len(package.only.tensors) == 3


def test_each_shard_is_watched_for_changes(folder: Path) -> None:
    with files.read(folder) as package:
        package.ensure_unchanged()
        os.utime(folder / SECOND, ns=(1, 1))
        with pytest.raises(MalformedFile, match=SECOND):
            package.ensure_unchanged()


GOOD = {"a": FIRST, "b": SECOND, "c": FIRST}
BAD_MAPS = {
    "a path up": ({**GOOD, "b": f"../{SECOND}"}, "name-outside"),
    "a path up from below": ({**GOOD, "b": f"x/../../{SECOND}"}, "name-outside"),
    "a path up with backslashes": ({**GOOD, "b": f"..\\{SECOND}"}, "name-outside"),
    "an absolute path": ({**GOOD, "b": "/etc/passwd"}, "name-outside"),
    "another drive": ({**GOOD, "b": f"D:{SECOND}"}, "name-outside"),
    "a NUL": ({**GOOD, "b": f"{SECOND}\0"}, "name-outside"),
    "no name": ({**GOOD, "b": ""}, "name-outside"),
    "a shard that is missing": ({**GOOD, "b": "model-00003-of-00002.safetensors"}, "missing-shard"),
    "a tensor that is nowhere": ({**GOOD, "d": FIRST}, "tensor-missing"),
    "a tensor in another shard": ({**GOOD, "a": SECOND}, "tensor-not-in-index"),
    "a tensor that the index leaves out": ({"a": FIRST, "b": SECOND}, "tensor-not-in-index"),
    "a number for a shard": ({**GOOD, "b": 2}, "not-an-index"),
    "a list": (["a"], "not-an-index"),
    "nothing": (None, "not-an-index"),
}


@pytest.mark.parametrize("what", BAD_MAPS)
def test_an_index_that_lies_is_refused(folder: Path, what: str) -> None:
    weight_map, rule = BAD_MAPS[what]
    (folder.parent / SECOND).unlink(missing_ok=True)
    shard(folder.parent / SECOND, "b")
    with pytest.raises(MalformedFile) as caught:
        files.read(index(folder, weight_map))
    assert caught.value.rule == rule


@pytest.mark.parametrize("total", [11, 13, 12.5, "12", True, [12]])
def test_a_total_that_lies_is_refused(folder: Path, total: object) -> None:
    with pytest.raises(MalformedFile) as caught:
        files.read(index(folder, GOOD, total_size=total))
    assert caught.value.rule == "total-size"


def test_a_tensor_in_two_shards_is_refused(folder: Path) -> None:
    shard(folder / SECOND, "a", "b")
    with pytest.raises(MalformedFile) as caught:
        files.read(folder)
    assert caught.value.rule == "tensor-in-two-shards"


def test_a_shard_that_is_malformed_is_refused_by_its_own_name(folder: Path) -> None:
    os.truncate(folder / SECOND, 100)
    with pytest.raises(MalformedFile) as caught:
        files.read(folder)
    assert (caught.value.rule, caught.value.path) == ("header-cut", (folder / SECOND).resolve())


def test_a_link_that_leaves_the_folder_is_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "x"
    (folder / SECOND).rename(elsewhere)
    (folder / SECOND).symlink_to(elsewhere)
    with pytest.raises(MalformedFile) as caught:
        files.read(folder)
    assert caught.value.rule == "link-outside"


def test_links_within_the_folder_and_those_of_the_hub_cache_are_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    shard(blobs / "1", "a", "c")
    shard(blobs / "2", "b")
    index(blobs, GOOD, total_size=12).rename(blobs / "3")
    for name, blob in ((FIRST, "1"), (SECOND, "2"), (INDEX, "3")):
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    (tmp_path / "link").symlink_to(snapshot)
    for path in (snapshot, snapshot / INDEX, tmp_path / "link", tmp_path / "link" / INDEX, blobs / "../snapshots/abc"):
        with files.read(path) as package:
            assert sorted(package.only.tensors) == ["a", "b", "c"]


def test_a_link_in_circles_is_refused(folder: Path) -> None:
    (folder / SECOND).unlink()
    (folder / SECOND).symlink_to(SECOND)
    with pytest.raises(MalformedFile) as caught:
        files.read(folder)
    assert caught.value.rule == "link-loop"


DOCUMENTS = {
    "no JSON": (b"{", "json"),
    "repeated name": (b'{"weight_map":{"a":"x","a":"y"}}', "json"),
    "NaN": (b'{"weight_map":{},"x":NaN}', "json"),
    "infinite number": (b'{"weight_map":{},"x":1e999}', "json"),
    "not UTF-8": (b'{"\xff":1}', "json"),
    "nested": (b"[" * 100_000, "json"),
    "above the limit": (b'{"weight_map":{}}' + b" " * 16_000_000, "json-too-large"),
    "another document": (b'{"lora_alpha":8}', "not-an-index"),
    "a list": (b"[]", "not-an-index"),
}


@pytest.mark.parametrize("what", DOCUMENTS)
def test_a_document_that_is_no_index_is_refused(tmp_path: Path, what: str) -> None:
    content, rule = DOCUMENTS[what]
    path = tmp_path / INDEX
    path.write_bytes(content)
    with pytest.raises(MalformedFile) as caught:
        files.read(path)
    assert caught.value.rule == rule


def test_several_sets_of_shards_in_a_folder_are_a_question(folder: Path) -> None:
    (folder / "other.safetensors.index.json").write_text("{}")
    with pytest.raises(UsageError, match=r"several models: 'model\.safetensors\.index\.json', 'other"):
        files.read(folder)
