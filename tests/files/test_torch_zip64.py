"""Archives that are larger than 32 and 16 bits count, in the headers that we write; the data is a hole, or empty."""

import zipfile
from pathlib import Path

import pytest

from adapterhub.files import LIMITS
from adapterhub.files.pickles.zip_directory import read_directory
from adapterhub.files.pickles.zip_writing import directory_end, directory_entry, local_header
from adapterhub.files.source import Source


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.pt"


def test_members_beyond_four_gigabytes_have_zip64_sizes_and_places(path: Path) -> None:
    size = (1 << 32) + 8
    first = local_header(b"a/data/0", size, 0)
    at = len(first) + size
    second = local_header(b"a/data/1", 0, at)
    begin = at + len(second)
    assert (len(first) % 64, begin % 64) == (0, 0)
    rows = directory_entry(b"a/data/0", size, 0, 0) + directory_entry(b"a/data/1", 0, 0, at)
    with path.open("wb") as out:  # a hole instead of the data
        out.write(first)
        out.seek(at)
        out.write(second + rows + directory_end(2, len(rows), begin))
    with zipfile.ZipFile(path) as archive:
        assert [(i.filename, i.file_size, i.compress_size, i.header_offset) for i in archive.infolist()] == [
            ("a/data/0", size, size, 0), ("a/data/1", 0, 0, at),
        ]  # fmt: skip
    assert [(m.name, m.size, m.start) for m in read_directory(Source(path), LIMITS).values()] == [
        ("a/data/0", size, len(first)), ("a/data/1", 0, begin),
    ]  # fmt: skip


def test_more_members_than_the_old_directory_counts_are_all_there(path: Path) -> None:
    names = [b"a/%d" % number for number in range(65_535)]
    headers, rows, at = [], [], 0
    for name in names:
        headers.append(local_header(name, 0, at))
        rows.append(directory_entry(name, 0, 0, at))
        at += len(headers[-1])
    path.write_bytes(b"".join(headers + rows) + directory_end(len(rows), sum(map(len, rows)), at))
    assert [name.encode() for name in read_directory(Source(path), LIMITS)] == names
    with zipfile.ZipFile(path) as archive:
        assert [name.encode() for name in archive.namelist()] == names
