"""The fingerprint: a digest of what an adapter does, the same in every layout, container, key order and spelling."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

from adapterhub.adapter import Adapter, Role, Roles
from adapterhub.algorithms import algorithm_of, scale_of
from adapterhub.tensors import FLOATS, LazyTensor, item, values

if TYPE_CHECKING:
    import numpy as np

VERSION = b"adapterhub fingerprint 1"
_SCALE_BITS = 20
_ALPHA_CONSTRAINS = ("oft", "boft")


def fingerprint(adapter: Adapter) -> str:
    """64 hex digits over the values of every module.

    Covered: component, module path, algorithm and the exact values of its tensors, alpha / rank included. A power of two
    may sit in any factor, in alpha or be folded: each product counts once, as mantissas and one exponent. Shapes count
    without trailing ones (1×1 convolution = linear), dtypes do not count: float16 values stored as float32 are the same.

    Not covered: metadata, architecture, the split of a product in other ways (another basis of the same ΔW), another
    algorithm with the same ΔW, and a cast that changes values, which gives another fingerprint: `diff` measures those.
    A scale that is no power of two cannot be folded without rounding, and then the values differ too. Scales are compared
    to 20 bits, so that alpha·sqrt(rank) of an rsLoRA survives its rounding to float32.
    """
    digest = hashlib.sha256(VERSION)
    for (component, module), tensors in sorted(adapter.modules().items()):
        digest.update(f"\n{component}\0{module}\0".encode())
        for part in _module(tensors):
            digest.update(part)
    return digest.hexdigest()


def _module(tensors: Roles) -> Iterator[bytes]:
    algorithm = algorithm_of(tensors)
    if algorithm is None:
        return
    yield algorithm.name.encode()
    told = {Role.ALPHA, Role.SCALE, Role.SCALAR}
    for factors in algorithm.factors:
        told |= set(factors)
        yield from _product([(role, tensors[role]) for role in factors if role in tensors and role is not Role.SCALAR],
                            _scale(tensors))  # fmt: skip
    for role in sorted(tensors.keys() - told):
        yield from _plain(*_canonical(role, tensors[role], tensors))
    if Role.ALPHA in tensors and algorithm.name in _ALPHA_CONSTRAINS:
        yield repr(item(tensors[Role.ALPHA])).encode()


def _scale(tensors: Roles) -> Fraction | float:
    scale = scale_of(tensors)
    if Role.SCALAR not in tensors:
        return scale
    factor = item(tensors[Role.SCALAR])
    return scale * Fraction(factor) if math.isfinite(factor) and isinstance(scale, Fraction) else float(scale) * factor


def _product(factors: list[tuple[Role, LazyTensor]], scale: Fraction | float) -> Iterator[bytes]:
    """Each factor over its own power of two, then the sum of the exponents with the scale's."""
    import numpy as np

    exponent = 0
    for role, tensor in factors:
        array = values(tensor).astype("<f8")
        largest = float(np.max(np.abs(array), initial=0.0))
        if largest and math.isfinite(largest):
            power = math.frexp(largest)[1]
            exponent += power
            array = np.ldexp(array, -power)
        yield from _array(role, tensor, array)
    yield _scale_text(scale, exponent).encode()


def _scale_text(scale: Fraction | float, exponent: int) -> str:
    number = float(scale)
    if not number or not math.isfinite(number):
        return repr(number)
    mantissa, power = math.frexp(number)
    whole = round(mantissa * (1 << _SCALE_BITS))
    if abs(whole) == 1 << _SCALE_BITS:  # rounded up to the next power of two
        whole, power = whole // 2, power + 1
    return f"{whole}:{power + exponent}"


def _canonical(role: Role, tensor: LazyTensor, tensors: Roles) -> tuple[Role, LazyTensor, np.ndarray | None]:
    """PEFT's IA3 multiplier and bias as LyCORIS stores them: w = l - 1, and Δb with the scale in it."""
    if role is Role.IA3_L:
        return Role.IA3_WEIGHT, tensor, values(tensor).astype("<f8") - 1.0
    if role is Role.UP_BIAS:
        return Role.DIFF_B, tensor, values(tensor).astype("<f8") * float(_scale(tensors))
    return role, tensor, None


def _plain(role: Role, tensor: LazyTensor, array: np.ndarray | None) -> Iterator[bytes]:
    if array is not None:
        yield from _array(role, tensor, array)
    elif tensor.dtype in FLOATS or tensor.size == 1:
        yield from _array(role, tensor, values(tensor).astype("<f8"))
    else:
        yield f"{role}{tensor.dtype}{list(tensor.shape)}".encode()
        yield tensor.read()


def _array(role: Role, tensor: LazyTensor, array: np.ndarray) -> Iterator[bytes]:
    """The values in float32 where that is exact, in float64 where it is not."""
    import numpy as np

    shape = list(tensor.shape)
    while len(shape) > 1 and shape[-1] == 1:
        shape.pop()
    with np.errstate(over="ignore"):
        narrow = array.astype("<f4")
    same = np.array_equal(narrow.astype("<f8"), array, equal_nan=True)
    yield f"{role}{shape if tensor.size > 1 else ''}".encode()
    yield (narrow if same else array).tobytes()
