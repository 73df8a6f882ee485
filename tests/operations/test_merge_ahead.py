"""What is computed ahead comes in any order, holds no more than it may, and passes errors on; its memory comes back."""

from __future__ import annotations

import gc
import threading
import time
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from adapterhub.operations.merge import ahead as module
from adapterhub.operations.merge.ahead import Ahead
from adapterhub.operations.merge.scratch import Pool, scratch


def doubled(number: int) -> int:
    return 2 * number


def size(number: int) -> int:
    return 1


def test_every_result_is_there_in_turn_out_of_turn_and_again() -> None:
    with Ahead(range(50), doubled, size) as ahead:
        assert [ahead(number) for number in (*range(20), 40, 20, 3, *range(21, 50))] == [
            2 * number for number in (*range(20), 40, 20, 3, *range(21, 50))
        ]


@pytest.mark.parametrize(("bytes_each", "most"), [(1 << 20, 18), (32 << 20, 2)])
def test_no_more_waits_than_may(bytes_each: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD", 16 << 20)
    begun: list[int] = []
    with Ahead(range(100), lambda number: begun.append(number) or number, lambda _: bytes_each) as ahead:
        for number in range(100):
            time.sleep(0.001)
            assert len(begun) <= number + most
            assert ahead(number) == number


def test_an_error_comes_where_its_result_was_asked_for() -> None:
    def failing(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    with Ahead(range(10), failing, size) as ahead:
        assert [ahead(number) for number in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="three"):
            ahead(3)
        assert ahead(4) == 4


def test_leaving_early_begins_nothing_more() -> None:
    begun: list[int] = []
    first = threading.Event()

    def slow(number: int) -> None:
        begun.append(number)
        first.wait(5)

    with Ahead(range(1000), slow, size):
        first.set()
    count = len(begun)
    time.sleep(0.02)
    assert count == len(begun) < 1000


def blas_threads() -> list[int]:
    return [found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"]


def test_products_take_one_thread_inside_and_as_many_as_before_outside() -> None:
    before = blas_threads()
    with Ahead((), doubled, size):
        assert set(blas_threads()) == {1}
    assert blas_threads() == before


def test_memory_of_a_pool_is_used_again_when_nobody_looks_at_it() -> None:
    pool = Pool()
    first = pool.take()
    where = first.ctypes.data
    part: Any = first.view("<u2")[4:8].reshape(2, 2).data
    del first
    gc.collect()
    second = pool.take()
    assert second.ctypes.data != where  # a view of the first is alive
    del part
    gc.collect()
    assert pool.take().ctypes.data == where


@pytest.mark.parametrize(("count", "wanted"), [(0, 0), (1, 1), (Pool.PIECE, 1), (Pool.PIECE + 1, 2)])
def test_what_is_taken_is_counted_in_pieces(count: int, wanted: int) -> None:
    assert Pool.taken(count) == wanted * Pool.PIECE


def test_scratch_is_of_one_thread() -> None:
    mine = scratch("test", (4, 8), "<f8")
    mine[:] = 7
    found: list[np.ndarray] = []

    def other() -> None:
        found.append(scratch("test", (32,), "<f8"))
        found[0][:] = 0

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert (mine == 7).all()
    assert np.shares_memory(mine, scratch("test", (16,), "<f8"))
    assert scratch("test", (100, 100), "<f8").shape == (100, 100)
