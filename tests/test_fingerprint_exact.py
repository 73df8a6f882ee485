"""The fingerprint computes in float32 what float32 holds: the digests are those of float64, bit by bit."""

import hashlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adapterhub.adapter import Adapter, Key, Kind, Role
from adapterhub.fingerprint import VERSION, fingerprint
from adapterhub.tensors import from_bytes, values

R = Role
BYTES = {"F16": 2, "BF16": 2, "F32": 4, "F8_E4M3": 1, "F8_E5M2": 1}


def adapter(dtype: str, **stored: tuple[tuple[int, ...], bytes]) -> Adapter:
    return Adapter(Kind.LORA, "sd1", {
        Key("unet", "conv_in", R[name]): from_bytes(dtype, shape, data) for name, (shape, data) in stored.items()
    })  # fmt: skip


def widely(found: Adapter) -> Adapter:
    """The same values as float64."""
    with np.errstate(invalid="ignore"):
        return found.with_tensors({
            key: from_bytes("F64", tensor.shape, values(tensor).astype("<f8").tobytes())
            for key, tensor in found.tensors.items()
        })  # fmt: skip


def plainly(found: Adapter) -> str:
    """The fingerprint of a LoRA of one module without alpha, said as simply as it can be."""
    digest = hashlib.sha256(VERSION + b"\nunet\0conv_in\0" + b"lora")
    tensors = {key.role: tensor for key, tensor in found.tensors.items()}
    arrays = {role: values(tensors[role]).astype("<f8") for role in (R.UP, R.DOWN)}
    largest = [np.max(np.abs(array)) for array in arrays.values()]
    if 0 in largest and np.all(np.isfinite(largest)):
        digest.update(b"nothing")
        return digest.hexdigest()
    total = 0
    for (role, array), size in zip(arrays.items(), largest, strict=True):
        power = int(np.frexp(size)[1]) if np.isfinite(size) else 0
        scaled, total = np.ldexp(array, -power), total + power
        narrow = scaled.astype("<f4")
        same = np.array_equal(narrow.astype("<f8"), scaled, equal_nan=True)
        digest.update(f"{role}[{array.shape[0]}, {array.size // array.shape[0]}]".encode())
        digest.update((narrow if same else scaled).tobytes())
    digest.update(f"{1 << 19}:{1 + total}".encode())  # a scale of 1 is 0.5 · 2¹
    return digest.hexdigest()


@st.composite
def loras(draw) -> Adapter:
    """Two factors of any bits whatever, of like magnitudes or not."""
    dtype = draw(st.sampled_from(sorted(BYTES)))
    any_bits = st.binary(min_size=12 * BYTES[dtype], max_size=12 * BYTES[dtype])
    small = st.lists(st.sampled_from([0.0, -0.0, 1.0, 1e-3, -3e-5, 6e-8, 1e-40, 1e-45, 1e38, 300.0, 65504.0]),
                     min_size=12, max_size=12)  # fmt: skip
    found = draw(st.tuples(any_bits, any_bits) | st.tuples(small, small))
    data = [one if isinstance(one, bytes) else stored(one, dtype) for one in found]
    return adapter(dtype, UP=((4, 3), data[0]), DOWN=((3, 4), data[1]))


def stored(numbers: list[float], dtype: str) -> bytes:
    with np.errstate(over="ignore"):
        if dtype == "F16":
            return np.array(numbers, "<f2").tobytes()
        wide = np.array(numbers, "<f4")
    if dtype == "F32":
        return wide.tobytes()
    return (wide.view("<u4") >> (16 if dtype == "BF16" else 24)).astype(f"<u{BYTES[dtype]}").tobytes()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(max_examples=2000, deadline=None)
@given(loras())
@example(adapter("F32", UP=((1, 2), stored([2.0**100, 2.0**-149], "F32")), DOWN=((2, 1), stored([1.0, 1.0], "F32"))))
@example(adapter("F32", UP=((1, 2), stored([2.0**127, 2.0**-2], "F32")), DOWN=((2, 1), stored([1e-45, 0], "F32"))))
@example(adapter("F32", UP=((1, 2), b"\1\0\x80\x7f" * 2), DOWN=((2, 1), stored([1.0, 1.0], "F32"))))
def test_the_digest_is_that_of_float64(lora):
    assert fingerprint(lora) == plainly(lora) == fingerprint(widely(lora))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(max_examples=500, deadline=None)
@given(st.sampled_from(sorted(BYTES)), st.binary(min_size=32, max_size=32))
def test_what_stands_outside_a_product_is_digested_as_float64_too(dtype, data):
    shape = (8, 4 // BYTES[dtype])
    for role in ("DIFF", "DIFF_B", "W_NORM"):
        one = adapter(dtype, **{role: (shape, data)})
        assert fingerprint(one) == fingerprint(widely(one))


def test_every_half_is_widened_as_numpy_widens_it():
    every = np.arange(1 << 16, dtype="<u2")
    finite = every[np.isfinite(every.view("<f2"))]
    for halves in (finite, every):
        one = adapter("F16", DIFF=((halves.size,), halves.tobytes()))
        wide = values(next(iter(one.tensors.values()))).astype("<f4").tobytes()
        assert fingerprint(one) == fingerprint(adapter("F32", DIFF=((halves.size,), wide))) == fingerprint(widely(one))
