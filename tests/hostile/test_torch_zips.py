"""An archive that two readers could understand differently is refused, whatever the pickle in it says."""

import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adapterhub import files
from adapterhub.errors import MalformedFile
from tests.hostile.archives import (
    DATA,
    FULL,
    PICKLED,
    STORAGE,
    VERSION,
    WHOLE,
    Part,
    archive,
    both,
    deflated,
    descriptor,
    end64,
    of,
    stored,
)

TRUE = STORAGE.content
SOUND = {
    "as it is": of(),
    "ZIP64 records that say the same": of(wide=end64()),
    "ZIP64 records instead": of(wide=end64(), count=0xFFFF, here=0xFFFF, length=FULL, at=FULL),
    "sizes behind the data": archive([descriptor(part) for part in WHOLE]),
    "wide sizes behind the data": archive([descriptor(part, wide=True) for part in WHOLE]),
    "padding": stored(local={"extra": b"FB\x05\0ZZZZZ"}),
    "deflated": archive([DATA, deflated(TRUE), VERSION]),
    "deflated pickle": archive([replace(deflated(PICKLED), name="x/data.pkl"), STORAGE, VERSION]),
    "names that are ASCII and not marked as UTF-8": both(flags=0),
    "sizes in ZIP64 fields": stored(
        local={"size": FULL, "packed": FULL, "extra": struct.pack("<2H2Q", 1, 16, 16, 16)},
        central={"size": FULL, "packed": FULL, "extra": struct.pack("<2H2Q", 1, 16, 16, 16)},
    ),
    "records of newer versions": of(
        Part("x/byteorder", b"little"), Part("x/.format_version", b"1"), Part("x/.storage_alignment", b"64"),
        Part("x/.data/serialization_id", b"0" * 40),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SOUND)
def test_a_sound_archive_is_read(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(SOUND[what])
    with files.read(path) as package:
        assert {name: t.read() for name, t in package.only.tensors.items()} == {"a": TRUE}
    assert torch.load(path, weights_only=True)["a"].tolist() == [1, 2, 3, 4]


REFUSED = {
    # the end
    "cut": (of()[:-1], "zip-end"),
    "a byte behind": (of() + b"\0", "zip-end"),
    "a pickle behind": (of() + PICKLED, "zip-end"),
    "an archive behind": (of() + of(), "zip-end"),
    "a comment": (of(comment=3) + b"abc", "zip-end"),
    "several disks": (of(disk=1, first=1), "zip-end"),
    "fewer entries on this disk": (of(here=2), "zip-end"),
    "one entry more": (of(here=4, count=4), "zip-records"),
    "one entry fewer": (of(here=2, count=2), "zip-directory"),
    "a directory of other length": (of(length=5), "zip-end"),
    "a directory elsewhere": (of(at=5), "zip-end"),
    "more entries than there can be": (of(here=5000, count=5000), "zip-records"),
    "nothing in it": (archive([]), "zip"),
    # ZIP64
    "numbers that point to a ZIP64 record that is not there": (of(count=0xFFFF, here=0xFFFF), "zip64"),
    "ZIP64 count that contradicts": (of(wide=end64(4)), "zip64"),
    "ZIP64 place that contradicts": (of(wide=end64(at=7)), "zip64"),
    "ZIP64 length that contradicts": (of(wide=end64(length=7)), "zip64"),
    "ZIP64 locator that points elsewhere": (of(wide=end64(place=0)), "zip64"),
    "ZIP64 record with more in it": (of(wide=end64(rest=45)), "zip64"),
    "ZIP64 record that only the locator knows": (of(wide=end64()[56:]), "zip64"),
    "ZIP64 field that nothing asks for": (both(extra=struct.pack("<2H2Q", 1, 16, 16, 16)), "zip64"),
    "ZIP64 field that is missing": (both(size=FULL, packed=FULL), "zip64"),
    "ZIP64 field that is short": (both(size=FULL, packed=FULL, extra=struct.pack("<2HQ", 1, 8, 16)), "zip64"),
    "ZIP64 field with another size": (both(size=FULL, extra=struct.pack("<2HQ", 1, 8, 99)), "zip-size"),
    "ZIP64 field only in the directory": (
        stored(central={"size": FULL, "packed": FULL, "extra": struct.pack("<2H2Q", 1, 16, 16, 16)}, local={"size": 17}),
        "zip-local",
    ),
    # names
    "a name twice": (of(STORAGE), "zip-duplicate"),
    "the pickle twice": (of(DATA), "zip-duplicate"),
    "a second pickle": (of(Part("y/data.pkl", PICKLED)), "zip-pickles"),
    "a second pickle, deeper": (of(Part("x/data/data.pkl", PICKLED)), "zip-pickles"),
    "a pickle too deep": (archive([replace(DATA, name="a/x/data.pkl")]), "zip-pickles"),
    "a pickle without a folder": (archive([replace(DATA, name="data.pkl")]), "zip-pickles"),
    "no pickle": (archive([STORAGE, VERSION]), "zip"),
    "a pickle in other letters": (archive([replace(DATA, name="x/Data.pkl"), STORAGE, VERSION]), "zip"),
    "another name in the local header": (stored(local={"name": b"x/data/1"}), "zip-local"),
    "a longer name in the local header": (stored(local={"name": b"x/data/00"}), "zip-local"),
    "another name in an extra field": (stored(central={"extra": b"up\x02\0ab"}), "zip-extra"),
    "another name in a local extra field": (stored(local={"extra": b"up\x02\0ab"}), "zip-extra"),
    "an extra field twice": (stored(central={"extra": b"FB\0\0FB\0\0"}), "zip-extra"),
    "an extra field that is cut": (stored(central={"extra": b"FB\x09\0a"}), "zip-extra"),
    "half an extra field": (stored(central={"extra": b"FB"}), "zip-extra"),
    "an absolute name": (of(Part("/x/data/1", b"")), "zip-name"),
    "a name that leads out": (of(Part("x/../../data/1", b"")), "zip-name"),
    "a name with a drive": (of(Part("C:/x", b"")), "zip-name"),
    "a name of another system": (of(Part("x\\data\\1", b"")), "zip-name"),
    "a name with NUL": (of(Part("x/data/1\0.txt", b"")), "zip-name"),
    "no name": (of(Part("", b"")), "zip-name"),
    "a folder": (of(Part("x/data/", b"")), "zip-name"),
    "a name that is not UTF-8": (of(Part(b"x/\xff", b"")), "zip-name"),
    "a name that is not marked as UTF-8": (
        of(replace(Part("x/ä", b""), local={"flags": 0}, central={"flags": 0})), "zip-name",
    ),
    "a link": (of(replace(Part("x/data/1", b"/etc/passwd"), central={"made": 0x314, "mode": 0o120777 << 16})), "zip-link"),
    "a comment of a member": (stored(central={"comment": b"hello"}), "zip-directory"),
    "a member on another disk": (stored(central={"disk": 1}), "zip-directory"),
    # bytes between
    "data before": (archive([replace(DATA, before=b"PK\3\4abc"), STORAGE, VERSION]), "zip-gap"),
    "a pickle before": (archive([replace(DATA, before=PICKLED), STORAGE, VERSION]), "pickle"),
    "data between members": (archive([DATA, replace(STORAGE, after=b"abc"), VERSION]), "zip-gap"),
    "data before the directory": (of(between=b"abc"), "zip-gap"),
    "two entries for one member": (of(replace(Part("x/data/1", b""), central={"offset": 0})), "zip-local"),
    "a member inside another": (of(replace(Part("x/data/1", b""), central={"offset": 20})), "zip-local"),
    "a member that reaches into the next": (
        stored(central={"packed": 40, "size": 40}, local={"packed": 40, "size": 40}), "zip-gap",
    ),
    "a member that reaches far": (both(packed=1 << 31, size=1 << 31), "zip-gap"),
    "a member beyond the file": (stored(central={"offset": 1 << 31}), "zip-gap"),
    # what headers say
    "encrypted": (both(flags=0x801), "zip-encrypted"),
    "strongly encrypted": (both(flags=0x840), "zip-encrypted"),
    "with a masked directory": (both(flags=0x2800), "zip-encrypted"),
    "encrypted in one header": (stored(local={"flags": 0x801}), "zip-local"),
    "a patch": (both(flags=0x820), "zip-flags"),
    "another method": (both(method=12), "zip-method"),
    "another method in one header": (stored(local={"method": 8}), "zip-local"),
    "another size in one header": (stored(local={"size": 15}), "zip-local"),
    "another CRC in one header": (stored(local={"crc": 1}), "zip-local"),
    "two sizes of a stored member": (both(size=17), "zip-size"),
    "sizes that do not follow the data": (stored(local={"flags": 0x808}, central={"flags": 0x808}), "zip-gap"),
    "other sizes behind the data": (archive([DATA, descriptor(STORAGE, size=15), VERSION]), "zip-gap"),
    "another CRC behind the data": (archive([DATA, descriptor(STORAGE, crc=1), VERSION]), "zip-gap"),
    "no mark behind the data": (archive([DATA, descriptor(STORAGE, mark=b""), VERSION]), "zip-gap"),
    "a wrong CRC of the pickle": (
        archive([replace(DATA, local={"crc": 1}, central={"crc": 1}), STORAGE, VERSION]), "zip-crc",
    ),
    # compressed members
    "a bomb": (archive([DATA, deflated(bytes(2 << 20)), VERSION]), "zip-ratio"),
    "a bomb of a pickle": (archive([replace(deflated(bytes(2 << 20)), name="x/data.pkl"), VERSION]), "zip-ratio"),
    "a pickle that inflates to more": (
        archive([replace(deflated(PICKLED, size=len(PICKLED) - 1), name="x/data.pkl"), STORAGE, VERSION]), "zip-inflate",
    ),
    "a pickle that inflates to less": (
        archive([replace(deflated(PICKLED, size=len(PICKLED) + 1), name="x/data.pkl"), STORAGE, VERSION]), "zip-inflate",
    ),
    "a pickle that does not inflate": (
        archive([Part("x/data.pkl", b"\xff" * 90, {"method": 8}, {"method": 8}), STORAGE, VERSION]), "zip-inflate",
    ),
    # torch's records
    "no version": (archive([DATA, STORAGE]), "zip-record"),
    "version 99": (archive([DATA, STORAGE, Part("x/version", b"99\n")]), "zip-version"),
    "a version of a megabyte": (archive([DATA, STORAGE, Part("x/version", b"3" * (1 << 20))]), "zip-record"),
    "middle-endian": (of(Part("x/byteorder", b"middle")), "byte-order"),
    "two byte orders": (of(Part("x/byteorder", b"little"), Part("x/byteorder", b"big")), "zip-duplicate"),
    "a member beside the folder": (of(Part("y/data/1", b"")), "zip-stray"),
    "a member that torch does not write": (of(Part("x/setup.py", b"")), "zip-stray"),
    "a storage that no tensor is in": (of(Part("x/data/1", b"")), "zip-stray"),
    "4,000 of them": (of(*(Part(f"x/data/{number}", b"") for number in range(1, 4000))), "zip-stray"),
    "a program": (of(Part("x/constants.pkl", b"\x80\x02).")), "torchscript"),
    "no storage": (archive([DATA, VERSION]), "storage-missing"),
    "a storage that is short": (stored(content=TRUE[:-1]), "storage-size"),
    "a storage that is long": (stored(content=TRUE + b"\0"), "storage-size"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_an_archive_that_is_ambiguous_or_not_torchs_is_refused(tmp_path: Path, what: str) -> None:
    content, rule = REFUSED[what]
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(MalformedFile) as caught:
        files.read(path)
    assert caught.value.rule == rule
    assert caught.value.mend


READ_LATE = {
    "a wrong CRC of a storage": (both(crc=1), "zip-crc"),
    "a wrong CRC of a deflated storage": (archive([DATA, deflated(TRUE, crc=1), VERSION]), "zip-crc"),
    "a storage that does not inflate": (
        archive([DATA, Part("x/data/0", b"\xff" * 9, *[{"method": 8, "size": 16}] * 2), VERSION]), "zip-inflate",
    ),
    "bytes behind what is deflated": (
        archive([DATA, replace(deflated(TRUE), content=deflated(TRUE).content + b"ab",
                               local={**deflated(TRUE).local, "packed": len(deflated(TRUE).content) + 2},
                               central={**deflated(TRUE).local, "packed": len(deflated(TRUE).content) + 2}), VERSION]),
        "zip-inflate",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", READ_LATE)
def test_a_storage_that_is_not_what_the_archive_says_is_refused_when_it_is_read(tmp_path: Path, what: str) -> None:
    content, rule = READ_LATE[what]
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with files.read(path) as package, pytest.raises(MalformedFile) as caught:
        package.only.tensors["a"].read()
    assert caught.value.rule == rule


def test_what_is_above_a_limit_is_refused_and_read_once_the_limit_is_raised(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(of())
    for name, value, rule in (
        ("records", 2, "zip-records"), ("pickle", 100, "pickle-too-large"), ("opcodes", 10, "pickle-opcodes"),
        ("pickle_memory", 1000, "pickle-memory"), ("stack", 3, "pickle-stack"), ("tensors", 0, "too-many-tensors"),
        ("rank", 0, "tensor-rank"), ("depth", 0, "pickle-depth"), ("nodes", 1, "pickle-nodes"),
    ):  # fmt: skip
        with pytest.raises(MalformedFile) as caught:
            files.read(path, limits=replace(files.LIMITS, **{name: value}))
        assert (name, caught.value.rule) == (name, rule if name != "pickle" else caught.value.rule)
    files.read(path).close()


def test_a_zip_by_another_program_holds_the_same(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for part in WHOLE:
            made.writestr(str(part.name), part.content)
    with files.read(path) as package:
        assert package.only.tensors["a"].read() == TRUE
