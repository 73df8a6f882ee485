"""Torch's container before 1.6: its head, its list of storages and their sizes are checked against the file."""

import struct
from pathlib import Path

import pytest

from adapterhub import files
from adapterhub.errors import MalformedFile
from tests.hostile.pickled import MAGIC, PROTOCOL, legacy, storage, system, tensor, text, whole

SOUND = {
    "as it is": legacy(),
    "written on a big-endian machine": legacy(head=MAGIC + PROTOCOL + system(little_endian=b"\x89")),
    "with more in its note": legacy(head=MAGIC + PROTOCOL + system(runtime=text("x"))),
    "on the second graphics card": legacy(whole(tensor(over=storage(place="cuda:1", more=b"N")))),
    "on a device of tomorrow": legacy(whole(tensor(over=storage(place="npu:3", more=b"N")))),
}


@pytest.mark.parametrize("what", SOUND)
def test_a_sound_file_is_read(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(SOUND[what])
    with files.read(path) as package:
        assert package.container == "torch-legacy"
        assert {name: found.read() for name, found in package.only.tensors.items()} == {
            "x": struct.pack("<4f", 1, 2, 3, 4)
        }


TWO = whole(b"(" + tensor(over=storage("0", more=b"N")) + tensor(over=storage("1", more=b"N")) + b"t")
REFUSED = {
    "another protocol": (legacy(head=MAGIC + b"\x80\x02M\xea\x03." + system()), "legacy-head"),
    "a protocol that is a text": (legacy(head=MAGIC + b"\x80\x02" + text("1001") + b"." + system()), "legacy-head"),
    "no protocol": (legacy(head=MAGIC + system()), "legacy-head"),
    "a note that is a list": (legacy(head=MAGIC + PROTOCOL + b"\x80\x02]."), "legacy-head"),
    "a note of another protocol": (legacy(head=MAGIC + PROTOCOL + system(protocol_version=b"K\x01")), "legacy-head"),
    "an order of bytes that is a number": (legacy(head=MAGIC + PROTOCOL + system(little_endian=b"K\x01")), "legacy-head"),
    "sizes of types that are a list": (legacy(head=MAGIC + PROTOCOL + system(type_sizes=b"]")), "legacy-head"),
    "a storage in the note": (
        legacy(head=MAGIC + PROTOCOL + system(runtime=storage("9", more=b"N"))), "legacy-head",
    ),
    "a storage in the list of storages": (legacy(keys=b"]" + storage("9", more=b"N") + b"a"), "legacy-head"),
    "a call in the note": (legacy(head=MAGIC + PROTOCOL + system(runtime=b"cos\nsystem\n")), "pickle-global"),
    "a call in the list of storages": (legacy(keys=b"cos\nsystem\n"), "pickle-global"),
    "a list of storages that is a tuple": (legacy(keys=text("0") + b"\x85"), "legacy-keys"),
    "a storage by a number": (legacy(keys=b"]K\x00a"), "legacy-keys"),
    "a storage twice": (legacy(keys=b"](" + text("0") + text("0") + b"e"), "legacy-keys"),
    "a storage that no tensor is in": (legacy(keys=b"](" + text("0") + text("1") + b"e"), "legacy-keys"),
    "a storage that is not in the list": (legacy(TWO), "legacy-keys"),
    "no list of storages": (legacy()[:-24 - 10], "pickle-cut"),
    "a count that lies": (legacy(storages=struct.pack("<q4f", 3, 1, 2, 3, 4)), "storage-size"),
    "a negative count": (legacy(storages=struct.pack("<q4f", -4, 1, 2, 3, 4)), "storage-size"),
    "a count of the other order": (legacy(storages=struct.pack(">q4f", 4, 1, 2, 3, 4)), "storage-size"),
    "a count near 2**63": (legacy(storages=struct.pack("<q4f", 2**63 - 1, 1, 2, 3, 4)), "storage-size"),
    "a storage that is cut": (legacy(storages=struct.pack("<q3f", 4, 1, 2, 3)), "storage-size"),
    "no storage": (legacy(storages=b""), "storage-size"),
    "2**59 elements": (legacy(whole(tensor(over=storage(count=1 << 59, more=b"N")))), "storage-size"),
    "a byte behind": (legacy() + b"\0", "legacy-trailing"),
    "an archive behind": (legacy() + b"PK\5\6" + bytes(18), "legacy-trailing"),
    "another file behind": (legacy() + legacy(), "legacy-trailing"),
    "the storage of an archive": (legacy(whole(tensor(over=storage()))), "pickle-persistent"),
    "a part of a storage": (legacy(whole(tensor(over=storage(more=b"K\x00")))), "pickle-persistent"),
    "a module that is no class": (legacy(whole(b"(" + text("module") + text("x") + b"NNtQ")), "pickle-persistent"),
    "a module that runs": (legacy(whole(b"(" + text("module") + b"cos\nsystem\nNNtQ")), "pickle-global"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_legacy_file_that_breaks_a_rule_is_refused_by_it(tmp_path: Path, what: str) -> None:
    content, rule = REFUSED[what]
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(MalformedFile) as caught:
        files.read(path)
    assert (caught.value.rule, caught.value.exit_status) == (rule, 3)
