"""Values between bytes and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapterhub.errors import RefusedInput
from adapterhub.operations.lora.deltas import lazy, tensor
from adapterhub.tensors import LazyTensor, from_bytes

FLOATS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "data", "value"),
    [
        ("F16", b"\x00\x3e", 1.5), ("BF16", b"\xc0\x3f", 1.5), ("F32", b"\x00\x00\xc0\x3f", 1.5),
        ("F64", b"\x00\x00\x00\x00\x00\x00\xf8\x3f", 1.5), ("F8_E4M3", b"\x3c", 1.5), ("F8_E5M2", b"\x3e", 1.5),
        ("I64", b"\xfe\xff\xff\xff\xff\xff\xff\xff", -2.0), ("I16", b"\x00\x80", -32768.0), ("U16", b"\x00\x80", 32768.0),
        ("BOOL", b"\x01", 1.0),
    ],
)  # fmt: skip
def test_the_values_of_every_dtype_are_those_of_its_bytes(dtype, data, value):
    found = tensor(from_bytes(dtype, (1,), data))
    assert found.dtype == torch.float64
    assert found.tolist() == [value]


def test_chunks_of_any_size_are_put_together():
    data = np.arange(6, dtype="<f4").tobytes()
    cut = LazyTensor("F32", (2, 3), lambda: (data[:5], data[5:]))
    assert tensor(cut, torch.float32).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("shape", [(0, 6), (8, 0)])
def test_a_tensor_of_no_elements_keeps_its_shape(shape):
    assert tensor(from_bytes("F16", shape, b"")).shape == shape
    assert lazy(torch.empty(shape), "F16").shape == shape


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "C64", "F8_E8M0"])
def test_a_dtype_that_is_only_moved_is_refused(dtype):
    with pytest.raises(RefusedInput, match=dtype):
        tensor(from_bytes(dtype, (8,), bytes(8 * {"F4": 4, "F6_E2M3": 6, "C64": 64, "F8_E8M0": 8}[dtype] // 8)))


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_every_value_of_a_narrow_dtype_comes_back_as_the_same_bytes(dtype):
    width = torch.empty(0, dtype=FLOATS[dtype]).element_size()
    data = np.arange(1 << 8 * width, dtype=f"<u{width}").tobytes()
    stored = from_bytes(dtype, (1 << 8 * width,), data)
    values = tensor(stored)
    kept = ~values.isnan()
    again = torch.frombuffer(bytearray(lazy(values, dtype).read()), dtype=torch.uint8).reshape(-1, width)
    assert torch.equal(again[kept], torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(-1, width)[kept])
    assert tensor(lazy(values, dtype))[~kept].isnan().all()


@pytest.mark.parametrize(
    ("dtype", "value", "nearest"),
    [
        ("F16", 1 + 2**-11 + 2**-40, 1 + 2**-10),  # by way of float32: 1 + 2⁻¹¹, then 1
        ("F16", 1 + 2**-11, 1.0),
        ("F16", -(1 + 2**-11 + 2**-40), -(1 + 2**-10)),
        ("F16", 1 + 3 * 2**-11 - 2**-40, 1 + 2**-10),
        ("F16", 65520 - 2**-30, 65504.0),
        ("F16", 2.0**-25 + 2.0**-60, 2.0**-24),
        ("BF16", 1 + 2**-8 + 2**-40, 1 + 2**-7),
        ("BF16", 1 + 2**-8, 1.0),
        ("F8_E4M3", 1 + 2**-4 + 2**-40, 1.125),
        ("F8_E5M2", 1 + 2**-3 + 2**-40, 1.25),
    ],
)
def test_a_value_is_rounded_once(dtype, value, nearest):
    assert tensor(lazy(torch.tensor([value], dtype=torch.float64), dtype)).tolist() == [nearest]


@given(st.lists(st.floats(width=64, allow_nan=False), min_size=1, max_size=20))
def test_rounding_to_float16_is_that_of_numpy_which_rounds_once(numbers):
    with np.errstate(over="ignore"):
        expected = np.array(numbers).astype("<f2").tobytes()
    assert lazy(torch.tensor(numbers, dtype=torch.float64), "F16").read() == expected


def test_the_bytes_of_a_view_are_in_row_major_order():
    assert lazy(torch.arange(6.0).reshape(2, 3).T, "F32").read() == np.array([0, 3, 1, 4, 2, 5], "<f4").tobytes()
