"""Numbers out of a file: those that lie side by side are read at once, and all are what they are one by one."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import pytest

from adapterhub.files import Address, Elsewhere, items
from adapterhub.files.source import Range, read_each
from adapterhub.tensors import LazyTensor, scalar

DATA = bytes(range(32))


class Counted:
    """DATA, and which parts of it were read."""

    size = len(DATA)

    def __init__(self) -> None:
        self.reads: list[tuple[int, int]] = []

    def read(self, start: int, length: int) -> bytes:
        self.reads.append((start, length))
        return DATA[start : start + length]

    def fetch(self, spans: Sequence[tuple[int, int]]) -> bool:
        return False

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("parts", "reads"),
    [
        ([], []),
        ([(4, 2)], [(4, 2)]),
        ([(0, 2), (2, 4), (6, 1)], [(0, 7)]),
        ([(0, 2), (3, 2)], [(0, 2), (3, 2)]),
        ([(2, 2), (0, 2)], [(2, 2), (0, 2)]),
        ([(0, 2), (0, 2)], [(0, 2), (0, 2)]),
        ([(0, 2), (1, 2)], [(0, 2), (1, 2)]),
        ([(0, 2), (2, 2), (8, 2), (10, 2)], [(0, 4), (8, 4)]),
    ],
)
def test_ranges_that_follow_each_other_are_one_read(parts, reads):
    content = Counted()
    source = Elsewhere(Address("there"), content)
    assert read_each([Range(source, *part) for part in parts]) == [DATA[at : at + size] for at, size in parts]
    assert content.reads == reads


def test_ranges_of_two_files_are_never_one_read():
    first, second = Counted(), Counted()
    parts = [
        Range(Elsewhere(Address(name), content), at, 2) for name, content, at in (("a", first, 0), ("b", second, 2))
    ]
    assert read_each(parts) == [DATA[:2], DATA[2:4]]
    assert (first.reads, second.reads) == ([(0, 2)], [(2, 2)])


def test_numbers_of_any_dtype_and_origin_are_read_together():
    source = Elsewhere(Address("there"), Counted())
    stored = [LazyTensor("U8", (), Range(source, 3, 1)), LazyTensor("I16", (1, 1), Range(source, 4, 2)),
              LazyTensor("F32", (1,), Range(source, 6, 4)), LazyTensor("BF16", (), Range(source, 10, 2)),
              LazyTensor("F8_E4M3", (1,), Range(source, 12, 1))]  # fmt: skip
    wanted = [3.0, 0x0504, *struct.unpack("<f", DATA[6:10]), *struct.unpack("<f", b"\0\0" + DATA[10:12]), 3 * 2**-7]
    assert items(stored) == wanted
    assert items([*stored, scalar(0.5)]) == [*wanted, 0.5]


def test_a_zero_keeps_its_sign():
    assert [math.copysign(1, value) for value in items([scalar(0.0), scalar(-0.0)])] == [1, -1]
