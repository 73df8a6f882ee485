"""A tree of plain values and tensors as the pickle that torch.save makes of it: protocol 2, with torch's persistent ids.

It names no global but those that torch's `weights_only` and A1111's `modules/safe.py` let through.
Source: CPython `Lib/pickletools.py` (opcodes); torch `serialization.py` (`_save`), `_tensor.py` (`_reduce_ex_internal`).
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import accumulate
from operator import mul
from typing import Any

from adapterhub.errors import UsageError
from adapterhub.files.limits import LIMITS
from adapterhub.files.pickles.state import shown
from adapterhub.files.pickles.tensors import ELEMENTS, STORAGES
from adapterhub.tensors import LazyTensor, Shape

_NAMES = {element.dtype: name for name, element in ELEMENTS.items() if element.packed == 1}
"""Dtypes that a file can hold, as torch calls them; the others fill bytes in part."""
_TYPED = {ELEMENTS[name].dtype: storage for storage, name in STORAGES.items()}
"""Dtypes that have a class of storage."""


def emit(tree: Any) -> tuple[bytes, list[tuple[str, LazyTensor]]]:
    """The pickle of `tree`, and the storages that it names "0", "1" …, each with the way to its tensor.

    A dict is written as a dict, an OrderedDict, which is what `state_dict()` gives, as such; a tensor that stands in two
    places is stored once. UsageError for what our own reader would refuse in a pickle, or what torch has no dtype for.
    """
    emitter = _Emitter()
    body = b"".join(emitter.value(tree, "", 0))
    return b"\x80\x02" + body + b".", emitter.storages


class _Emitter:
    def __init__(self) -> None:
        self.storages: list[tuple[str, LazyTensor]] = []
        self._keys: dict[LazyTensor, str] = {}

    def value(self, value: Any, place: str, depth: int) -> Iterator[bytes]:
        """The opcodes of `value`, which stands at `place` in `depth` containers."""
        if isinstance(value, LazyTensor):
            yield self._tensor(value, place)
        elif type(value) in _CONTAINERS:
            if depth == LIMITS.depth:
                raise UsageError(f"more than {depth} containers in one another: {shown(place)}")
            yield from _CONTAINERS[type(value)](self, value, place, depth + 1)
        else:
            yield _leaf(value, place)

    def of_dict(self, items: dict[Any, Any], place: str, depth: int) -> Iterator[bytes]:
        yield b"}"
        yield from self._items(items, place, depth)

    def of_ordered(self, items: dict[Any, Any], place: str, depth: int) -> Iterator[bytes]:
        yield _EMPTY_ORDERED
        yield from self._items(items, place, depth)

    def of_list(self, items: list[Any], place: str, depth: int) -> Iterator[bytes]:
        yield b"]"
        for index, item in enumerate(items):
            yield from self.value(item, _way(place, index), depth)
            yield b"a"

    def of_tuple(self, items: tuple[Any, ...], place: str, depth: int) -> Iterator[bytes]:
        yield b"("
        for index, item in enumerate(items):
            yield from self.value(item, _way(place, index), depth)
        yield b"t"

    def _items(self, items: dict[Any, Any], place: str, depth: int) -> Iterator[bytes]:
        for key, item in items.items():
            yield _leaf(key, place)
            yield from self.value(item, _way(place, key), depth)
            yield b"s"

    def _tensor(self, tensor: LazyTensor, place: str) -> bytes:
        """A call of `_rebuild_tensor_v2`, whose dtype is that of its storage, or of `_rebuild_tensor_v3`, which is told."""
        if tensor.dtype not in _NAMES:
            raise UsageError(f"the tensor {shown(place)} is {tensor.dtype}, which torch's files do not hold")
        view = [_integer(0), _integers(tensor.shape), _integers(_strides(tensor.shape)), _FALSE, _EMPTY_ORDERED]
        if tensor.dtype in _TYPED:
            storage = self._storage(tensor, place, _global("torch", _TYPED[tensor.dtype]), tensor.size)
            return _call("torch._utils", "_rebuild_tensor_v2", storage, *view)
        storage = self._storage(tensor, place, _global("torch.storage", "UntypedStorage"), tensor.nbytes)
        return _call("torch._utils", "_rebuild_tensor_v3", storage, *view, _global("torch", _NAMES[tensor.dtype]))

    def _storage(self, tensor: LazyTensor, place: str, kind: bytes, count: int) -> bytes:
        if tensor not in self._keys:
            self._keys[tensor] = str(len(self.storages))
            self.storages.append((place, tensor))
        return _tuple(_text("storage"), kind, _text(self._keys[tensor]), _text("cpu"), _integer(count)) + b"Q"


_CONTAINERS: dict[type, Callable[[_Emitter, Any, str, int], Iterator[bytes]]] = {
    dict: _Emitter.of_dict, OrderedDict: _Emitter.of_ordered, list: _Emitter.of_list, tuple: _Emitter.of_tuple,
}  # fmt: skip


def _way(place: str, key: object) -> str:
    return f"{place}.{key}" if place else str(key)


def _leaf(value: Any, place: str) -> bytes:
    if type(value) not in _LEAVES:
        raise UsageError(f"a value of the type {type(value).__name__}, which torch's files do not hold: {shown(place)}")
    try:
        return _LEAVES[type(value)](value)
    except ValueError as error:
        raise UsageError(f"{error}, which torch's files do not hold: {shown(place)}") from None


def _integer(value: int) -> bytes:
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(max(value, ~value).bit_length() // 8 + 1, "little", signed=True)
    if len(raw) > LIMITS.integer:
        raise ValueError(f"an integer of {len(raw)} bytes")
    return b"\x8a" + bytes([len(raw)]) + raw


def _float(value: float) -> bytes:
    return b"G" + struct.pack(">d", value)


def _text(value: str) -> bytes:
    try:
        raw = value.encode()
    except UnicodeEncodeError:
        raise ValueError("a text with half a surrogate pair") from None
    return b"X" + struct.pack("<I", len(raw)) + raw


def _bytes(value: bytes) -> bytes:
    """Protocol 2 has no bytes; Python writes them as the text of their Latin-1."""
    return _call("_codecs", "encode", _text(value.decode("latin-1")), _text("latin1"))


def _integers(values: Shape) -> bytes:
    return _tuple(*map(_integer, values))


def _strides(shape: Shape) -> Shape:
    """How many elements lie between one index and the next along each axis, row-major; an empty axis counts as one."""
    steps = accumulate((max(extent, 1) for extent in reversed(shape[1:])), mul, initial=1)
    return tuple(steps)[::-1] if shape else ()


def _tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _call(module: str, name: str, *arguments: bytes) -> bytes:
    return _global(module, name) + _tuple(*arguments) + b"R"


_NONE, _TRUE, _FALSE = b"N", b"\x88", b"\x89"
_EMPTY_ORDERED = _call("collections", "OrderedDict")
_LEAVES: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: _NONE, bool: lambda value: _TRUE if value else _FALSE,
    int: _integer, float: _float, str: _text, bytes: _bytes,
}  # fmt: skip
