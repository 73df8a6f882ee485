"""Lazy tensors: shape operations exact on bytes for every dtype; values against torch and numpy."""

import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from adapterhub.tensors import (
    DTYPE_BITS,
    LazyTensor,
    from_bytes,
    holds,
    item,
    length,
    ratio,
    scalar,
    stack_rows,
    values,
)  # fmt: skip

WHOLE = [dtype for dtype, bits in DTYPE_BITS.items() if bits % 8 == 0]
PACKED = [dtype for dtype, bits in DTYPE_BITS.items() if bits % 8]
TORCH = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "BF16": torch.bfloat16, "F16": torch.float16,
         "F32": torch.float32, "F64": torch.float64}  # fmt: skip


def counted(dtype: str, *shape: int) -> LazyTensor:
    """A tensor whose bytes are 0, 1, 2, …"""
    size = length(dtype, shape)
    return from_bytes(dtype, shape, bytes(number % 251 for number in range(size)))


def bytes_of(tensor: LazyTensor) -> np.ndarray:
    """The bytes of each element, on one more axis."""
    return np.frombuffer(tensor.read(), "u1").reshape(*tensor.shape, DTYPE_BITS[tensor.dtype] // 8)


@pytest.mark.parametrize(("dtype", "shape", "size"), [
    ("F16", (3, 5), 30), ("F64", (), 8), ("F16", (0, 320), 0), ("BOOL", (7,), 7), ("C64", (2,), 16),
    ("F4", (4,), 2), ("F4", (3, 2), 3), ("F6_E2M3", (4,), 3), ("F6_E3M2", (2, 2), 3),
])  # fmt: skip
def test_a_tensor_is_as_long_as_its_elements(dtype, shape, size):
    assert length(dtype, shape) == size
    tensor = from_bytes(dtype, shape, bytes(size))
    assert (tensor.nbytes, tensor.size) == (size, math.prod(shape))


@pytest.mark.parametrize(("dtype", "shape"), [("F4", (3,)), ("F6_E2M3", (2,)), ("F6_E3M2", (5, 1))])
def test_a_packed_tensor_that_ends_inside_a_byte_is_refused(dtype, shape):
    with pytest.raises(ValueError, match="ends inside a byte"):
        length(dtype, shape)


@pytest.mark.parametrize("size", [0, 5, 7])
def test_bytes_that_are_too_many_or_too_few_are_refused(size):
    with pytest.raises(ValueError, match=f"{size} bytes"):
        from_bytes("F16", (3,), bytes(size))


@pytest.mark.parametrize("dtype", WHOLE)
def test_transposing_swaps_whole_elements_of_every_dtype(dtype):
    tensor = counted(dtype, 3, 5)
    turned = tensor.transpose()
    assert (turned.dtype, turned.shape) == (dtype, (5, 3))
    assert np.array_equal(bytes_of(turned), bytes_of(tensor).swapaxes(0, 1))
    assert turned.transpose().read() == tensor.read()


@pytest.mark.parametrize("dtype", PACKED)
def test_packed_tensors_are_not_transposed(dtype):
    with pytest.raises(ValueError, match="packed"):
        counted(dtype, 4, 4).transpose()


@pytest.mark.parametrize("dtype", WHOLE)
def test_rows_are_split_and_stacked_again(dtype):
    tensor = counted(dtype, 6, 2, 3)
    parts = tensor.split_rows([1, 3, 2])
    assert [part.shape for part in parts] == [(1, 2, 3), (3, 2, 3), (2, 2, 3)]
    assert np.array_equal(bytes_of(parts[1]), bytes_of(tensor)[1:4])
    again = stack_rows(parts)
    assert (again.dtype, again.shape, again.read()) == (dtype, tensor.shape, tensor.read())


@given(st.lists(st.binary(max_size=7), max_size=9), st.data())
def test_rows_are_the_same_wherever_the_source_breaks_its_chunks(chunks, data):
    whole = b"".join(chunks)
    tensor = LazyTensor("U8", (len(whole),), lambda: iter(chunks))
    cut = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    sizes = [last - first for first, last in zip([0, *cut], [*cut, len(whole)], strict=True)]
    parts = tensor.split_rows(sizes)
    assert [part.read() for part in parts] == [
        whole[first:last] for first, last in zip([0, *cut], [*cut, len(whole)], strict=True)
    ]
    assert stack_rows(parts).read() == stack_rows(parts).read() == whole


@pytest.mark.parametrize("sizes", [[6, 1], [2, 3], []])
def test_rows_that_do_not_make_up_the_tensor_are_refused(sizes):
    with pytest.raises(ValueError, match="do not make up 6"):
        counted("F16", 6, 2).split_rows(sizes)


@pytest.mark.parametrize("other", [("F32", (2, 3)), ("F16", (2, 4)), ("F16", (2, 3, 1))])
def test_only_tensors_of_one_dtype_and_width_are_stacked(other):
    with pytest.raises(ValueError, match="only tensors of one dtype and row shape"):
        stack_rows([counted("F16", 2, 3), counted(other[0], *other[1])])


def test_reshaping_keeps_the_bytes_and_reads_nothing():
    def never() -> list[bytes]:
        raise AssertionError("reshape read the bytes")

    tensor = LazyTensor("F16", (4, 3), never)
    assert tensor.reshape(4, 3, 1, 1).shape == (4, 3, 1, 1)
    assert tensor.reshape(4, 3) is tensor
    assert counted("F16", 4, 3).reshape(2, 6).read() == counted("F16", 4, 3).read()
    with pytest.raises(ValueError, match=r"\[4, 3\] does not reshape to \[5, 2\]"):
        tensor.reshape(5, 2)


@pytest.mark.parametrize("dtype", TORCH)
def test_values_are_those_of_torch(dtype):
    width = DTYPE_BITS[dtype] // 8
    codes = (
        np.arange(256, dtype="<u1") if width == 1 else np.frombuffer(np.random.default_rng(0).bytes(4096), f"<u{width}")
    )
    tensor = from_bytes(dtype, codes.shape, codes.tobytes())
    wanted = torch.frombuffer(bytearray(codes.tobytes()), dtype=TORCH[dtype])
    assert np.array_equal(values(tensor).astype("<f8"), wanted.to(torch.float64).numpy(), equal_nan=True)


@pytest.mark.parametrize(("dtype", "numpy"), [("I8", "i1"), ("U8", "u1"), ("I16", "<i2"), ("U16", "<u2"), ("I32", "<i4"),
                                              ("U32", "<u4"), ("I64", "<i8"), ("U64", "<u8"), ("BOOL", "?")])  # fmt: skip
def test_integers_are_themselves(dtype, numpy):
    data = np.array([[0, 1], [1, 0]], numpy)
    found = values(from_bytes(dtype, (2, 2), data.tobytes()))
    assert (found.dtype, found.tolist()) == (data.dtype, data.tolist())


@pytest.mark.parametrize("dtype", [*PACKED, "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"])
def test_dtypes_that_are_only_moved_have_no_values(dtype):
    with pytest.raises(ValueError, match="only moved"):
        values(counted(dtype, 4, 4))


@given(st.floats(width=32))
def test_a_scalar_is_rounded_as_torch_rounds(value):
    for dtype in ("F32", "BF16"):
        wanted = torch.tensor(value, dtype=torch.float64).to(torch.float32).to(TORCH[dtype]).to(torch.float64).item()
        found = item(scalar(value, dtype))
        assert found == wanted or (math.isnan(found) and math.isnan(wanted))


@given(arrays.arrays("<f2", ()))
def test_the_item_of_a_float16_is_its_value(value):
    tensor = from_bytes("F16", (1, 1), value.tobytes())
    assert item(tensor) == float(value) or (math.isnan(item(tensor)) and math.isnan(float(value)))


@pytest.mark.parametrize(
    ("dtype", "value"), [("F16", 0.5), ("BF16", -3), ("F64", 0.1), ("I64", 16), ("U8", 255), ("BOOL", 1)]
)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_the_item_of_a_scalar_of_any_shape_is_its_value(dtype, value, shape):
    assert item(scalar(value, dtype).reshape(*shape)) == value


def test_the_item_of_a_float8_is_its_value():
    assert item(from_bytes("F8_E4M3", (1,), b"\x38")) == 1.0
    assert item(from_bytes("F8_E5M2", (1,), b"\xbc")) == -1.0


@pytest.mark.parametrize("shape", [(2,), (0,), (1, 2)])
def test_a_tensor_of_several_elements_or_none_is_no_scalar(shape):
    with pytest.raises(ValueError, match="is no scalar"):
        item(counted("F16", *shape))


@pytest.mark.parametrize(("dtype", "value", "answer"), [
    ("F16", 0.1, False), ("F16", 2048.0, True), ("F16", 2049.0, False), ("F16", 65504.0, True), ("F16", 65536.0, False),
    ("F16", 2**-24, True), ("F16", 2**-25, False), ("BF16", 257.0, False), ("BF16", 256.0, True), ("BF16", 1e39, False),
    ("F32", 0.1, False), ("F64", 0.1, True), ("F32", math.inf, True), ("F32", math.nan, False),
    ("I64", 3.0, True), ("I64", 0.5, False), ("U8", 256.0, False), ("F8_E4M3", 1.0, False),
])  # fmt: skip
def test_a_dtype_holds_a_value_or_does_not(dtype, value, answer):
    assert holds(dtype, value) is answer


def test_bytes_are_little_endian():
    assert scalar(1.0, "F32").read() == struct.pack("<f", 1.0)
    assert scalar(258, "I16").read() == b"\x02\x01"
    assert scalar(1.0, "BF16").read() == b"\x80\x3f"


def test_alpha_over_rank_is_exact():
    assert ratio(1, 3) * 3 == 1
    assert ratio(0.5, 4) == ratio(1, 8)
