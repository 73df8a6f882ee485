"""Memory that merging uses again and again, and products that take one thread each."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from adapterhub.operations.merge.arithmetic import one_thread_a_product
from adapterhub.operations.merge.scratch import Pool, scratch


def blas_threads() -> list[int]:
    return [found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"]


def test_products_take_one_thread_inside_and_as_many_as_before_outside() -> None:
    before = blas_threads()
    with one_thread_a_product():
        assert set(blas_threads()) == {1}
    assert blas_threads() == before


def test_memory_of_a_pool_is_used_again_when_nobody_looks_at_it() -> None:
    pool = Pool()
    first = pool.take((64,), "<u2")
    where = first.ctypes.data
    part: Any = first[4:8].reshape(2, 2).data
    del first
    gc.collect()
    second = pool.take((64,), "<u2")
    assert second.ctypes.data != where  # a view of the first is alive
    del part
    gc.collect()
    assert pool.take((64,), "<u2").ctypes.data == where


@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (512, 1024), (512, 1025)])
def test_what_is_taken_has_the_shape_that_was_asked_for(shape: tuple[int, int]) -> None:
    pool = Pool()
    first, second = pool.take(shape, "<u2"), pool.take(shape, "<u2")
    first[:], second[:] = 1, 2
    assert (first.shape, first.dtype.str) == (shape, "<u2")
    assert (first == 1).all()


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
