"""The fingerprint: a digest of what an adapter does, the same in every layout, container, key order and spelling."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

from adapterhub.adapter import Adapter, Key, Kind, Role, Roles
from adapterhub.algorithms import algorithm_of, scale_of, total_scale
from adapterhub.files.source import Range
from adapterhub.tensors import FLOATS, Buffer, LazyTensor, item, recast, values

if TYPE_CHECKING:
    import numpy as np

VERSION = b"adapterhub fingerprint 1"
_SCALE_BITS = 20
_NARROW = FLOATS - {"F64"}
_BEYOND_HALF = 65536.0
"""What the bits of infinities and NaN of float16 would be as numbers, at least."""
_POWERS = 127
"""2 to a lesser power, and to its negative, is a normal number of float32."""
STRUCTURE = "adapterhub.hypernetwork"
"""The metadata field that tells a hypernetwork's layers."""
_ACTS = ("activation", "activate_output", "skip_connection", "upsample_linear")
_ALPHA_CONSTRAINS = ("oft", "boft")
_IN_SCALE = frozenset({Role.ALPHA, Role.SCALE, Role.SCALAR})


def fingerprint(adapter: Adapter, seen: Weights | None = None) -> str:
    """64 hex digits over the values of every module. What was `seen` of a whole model is not read again.

    Covered: component, module path, algorithm and the exact values of its tensors, alpha / rank included. A power of two
    may sit in any factor, in alpha or be folded: each product counts once, as mantissas and one exponent, and one that is
    zero as nothing at all. Shapes count as rows times the rest (1×1 convolution = linear, flattened kernels), dtypes do
    not count: float16 values stored as float32 are the same. PEFT's IA3 multipliers count as LyCORIS stores them. Tokens of
    an embedding count by their order and not by what they are called; of a hypernetwork its activations count too. Of a whole
    model the bytes of the weights count, dtypes included, and nothing that stands beside them.

    Not covered: metadata, architecture, the split of a product in other ways (another basis of the same ΔW), another
    algorithm with the same ΔW, and a cast that changes values, which gives another fingerprint: `diff` measures those.
    A scale that is no power of two cannot be folded without rounding, and then the values differ too. Scales are compared
    to 20 bits, so that alpha·sqrt(rank) of an rsLoRA survives its rounding to float32.
    """
    import numpy as np

    if adapter.kind is Kind.CHECKPOINT:
        return _of_weights(adapter, seen or Weights(adapter))
    digest = hashlib.sha256(VERSION)
    digest.update(structure(adapter))
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit stays in float64, NaN stays NaN
        for (component, module), tensors in named(adapter):
            digest.update(f"\n{component}\0{module}\0".encode())
            for part in _module(tensors):
                digest.update(part)
    return digest.hexdigest()


class Weights:
    """BLAKE3 of the weights of a whole model, taken while somebody else reads its file from the beginning to the end."""

    def __init__(self, adapter: Adapter) -> None:
        from blake3 import blake3

        runs = [(tensor.chunks.start, tensor.chunks.start + tensor.chunks.length, key)
                for key, tensor in adapter.tensors.items()
                if isinstance(tensor.chunks, Range) and tensor.chunks.length == tensor.nbytes > 0]  # fmt: skip
        self._runs = sorted(runs)
        self._next = 0
        self._digests = {key: blake3() for _, _, key in runs}

    def see(self, at: int, piece: memoryview) -> None:
        """Takes what lies in the bytes from `at`."""
        for start, end, key in self._runs[self._next :]:
            if start >= at + len(piece):
                return
            self._digests[key].update(piece[max(0, start - at) : end - at])
            if end > at + len(piece):
                return
            self._next += 1

    def digest(self, key: Key, tensor: LazyTensor) -> bytes:
        """The digest of one weight, which is read if it was not seen whole."""
        from blake3 import blake3

        if key in self._digests and self._next == len(self._runs):
            return self._digests[key].digest()
        content = blake3()
        for chunk in tensor.chunks():
            content.update(chunk)
        return content.digest()


def _of_weights(adapter: Adapter, seen: Weights) -> str:
    """A digest of the digests of all weights."""
    digest = hashlib.sha256(VERSION)
    for key, tensor in sorted(adapter.tensors.items()):
        if key.role is not Role.ASIDE:
            named = "\0".join((*key, tensor.dtype, *map(str, tensor.shape)))
            digest.update(f"\n{named}\0".encode() + seen.digest(key, tensor))
    return digest.hexdigest()


def structure(adapter: Adapter) -> bytes:
    """What acts in a hypernetwork beside its numbers; nothing of the kind in other adapters."""
    if adapter.kind is not Kind.HYPERNETWORK:
        return b""
    told = json.loads(adapter.metadata.get(STRUCTURE, "{}"))
    linear = told.get("activation", "linear") == "linear"
    acts = [told.get(name) for name in _ACTS if not (linear and name == "activate_output")]
    return json.dumps(acts).encode()


def named(adapter: Adapter) -> list[tuple[tuple[str, str], Roles]]:
    """The modules under names that are the same in every layout: tokens by their place in the file."""
    if adapter.kind is not Kind.EMBEDDING:
        return sorted(adapter.modules().items())
    tokens = list(dict.fromkeys(module.module for module in adapter.modules()))
    return sorted(((part, str(tokens.index(token))), roles) for (part, token), roles in adapter.modules().items())


def _module(tensors: Roles) -> Iterable[Buffer]:
    """What a module does or, where that cannot be computed (a shape or a dtype that nothing has), its tensors as they are."""
    try:
        return list(_done(tensors))
    except (ArithmeticError, IndexError, KeyError, ValueError):
        return [part for role in sorted(tensors) for part in _as_stored(role, tensors[role])]


def _done(tensors: Roles) -> Iterator[Buffer]:
    algorithm = algorithm_of(tensors)
    if algorithm is None:
        return
    yield algorithm.name.encode()
    multiplied = frozenset().union(*algorithm.factors)
    for factors in algorithm.factors:
        held = [(role, tensors[role]) for role in factors if role in tensors and role not in _IN_SCALE]
        yield from _product(held, total_scale(tensors))
    for role in sorted(tensors.keys() - multiplied - _IN_SCALE):
        yield from _apart(role, tensors)
    if algorithm.name in _ALPHA_CONSTRAINS and Role.ALPHA in tensors and (alpha := item(tensors[Role.ALPHA])):
        yield repr(alpha).encode()


def _product(factors: list[tuple[Role, LazyTensor]], scale: Fraction | float) -> Iterator[Buffer]:
    """Each factor over its own power of two, then the sum of the exponents with the scale's."""
    arrays = [(role, tensor, _numbers(tensor)) for role, tensor in factors]
    largest = [_largest(array) for _, _, array in arrays]
    if not scale or (0.0 in largest and all(map(math.isfinite, largest))):
        yield b"nothing"
        return
    powers = [math.frexp(size)[1] if math.isfinite(size) else 0 for size in largest]
    for (role, tensor, array), power in zip(arrays, powers, strict=True):
        yield from _array(role, tensor, array, power)
    yield _scale_text(scale, sum(powers)).encode()


def _scale_text(scale: Fraction | float, exponent: int) -> str:
    number = float(scale)
    if not number or not math.isfinite(number):
        return repr(number)
    mantissa, power = math.frexp(number)
    whole = round(mantissa * (1 << _SCALE_BITS))
    if abs(whole) == 1 << _SCALE_BITS:  # rounded up to the next power of two
        whole, power = whole // 2, power + 1
    return f"{whole}:{power + exponent}"


def _apart(role: Role, tensors: Roles) -> Iterator[Buffer]:
    """A tensor outside the products, in the terms of LyCORIS: IA3's w = l - 1 and its axis, biases and residuals scaled."""
    tensor = tensors[role]
    if role is Role.VECTORS and len(tensor.shape) == 1:
        tensor = tensor.reshape(1, *tensor.shape)
    if role is Role.IA3_L:
        on_input = len(tensor.shape) > 1 and tensor.shape[0] == 1 < tensor.size
        yield f"{Role.ON_INPUT}{on_input}".encode()
        yield from _array(Role.IA3_WEIGHT, tensor.reshape(tensor.size), values(tensor).astype("<f8") - 1.0)
    elif role is Role.ON_INPUT:
        yield f"{role}{bool(item(tensor))}".encode()
    elif role is Role.IA3_WEIGHT:
        yield from _array(role, tensor.reshape(tensor.size), _numbers(tensor))
    elif role is Role.UP_BIAS:
        yield from _array(Role.DIFF_B, tensor, values(tensor).astype("<f8") * float(scale_of(tensors)))
    elif role is Role.RESIDUAL:
        yield from _array(role, tensor, values(tensor).astype("<f8") * float(total_scale(tensors)))
    elif tensor.dtype in FLOATS or tensor.size == 1:
        yield from _array(role, tensor, _numbers(tensor))
    else:
        yield from _as_stored(role, tensor)


def _as_stored(role: Role, tensor: LazyTensor) -> Iterator[bytes]:
    yield f"{role}{tensor.dtype}{list(tensor.shape)}".encode()
    yield tensor.read()


def _numbers(tensor: LazyTensor) -> np.ndarray:
    """The values in float32 if that holds whatever their dtype does, else in float64."""
    found = values(tensor)
    if tensor.dtype == "F16":
        return _widened(found)
    return found.astype("<f4" if tensor.dtype in _NARROW else "<f8", copy=False)


def _widened(halves: np.ndarray) -> np.ndarray:
    """float16 as float32; numpy's NaN where there is one."""
    wide = recast(halves, "float32")
    return halves.astype("<f4") if _largest(wide) >= _BEYOND_HALF else wide


def _largest(numbers: np.ndarray) -> float:
    """The largest magnitude; NaN where one is."""
    return max(float(numbers.max(initial=0.0)), -float(numbers.min(initial=0.0)))


def _array(role: Role, tensor: LazyTensor, numbers: np.ndarray, power: int = 0) -> Iterator[Buffer]:
    rows = tensor.shape[0] if tensor.size > 1 else 1
    yield f"{role}[{rows}, {tensor.size // rows}]".encode()
    yield _over(numbers, power).reshape(-1).data


def _over(numbers: np.ndarray, power: int) -> np.ndarray:
    """`numbers`, none of which reaches a negative `power` of 2, over 2 ** `power`: in float32 where that is exact, in float64
    where it is not.
    """
    import numpy as np

    if numbers.dtype == np.float32 and abs(power) < _POWERS:
        narrow: np.ndarray = numbers * np.float32(2.0**-power)
        if power < 0 or (narrow * np.float32(2.0**power) == numbers).all():
            return narrow
    wide = np.ldexp(numbers.astype("<f8"), -power)
    narrow = wide.astype("<f4")
    return narrow if np.array_equal(narrow.astype("<f8"), wide, equal_nan=True) else wide
