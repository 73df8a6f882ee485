"""The payload: A1111's embedding as JSON, in which `{"TORCHTENSOR": nested lists}` is a tensor.

Source: A1111 `image_embedding.py` (`EmbeddingEncoder`, `EmbeddingDecoder`). Python's JSON knows NaN and the infinities;
so do both, inside tensors.
"""

from __future__ import annotations

import json
import math
import sys
from array import array
from collections.abc import Iterator
from itertools import chain
from typing import Any

from adapterhub.files import strict_json
from adapterhub.files.limits import Limits
from adapterhub.files.pickles.state import Refusal, shown
from adapterhub.tensors import LazyTensor, from_bytes, values

_TENSOR = "TORCHTENSOR"
_EXACT = 1 << 53
"""The integers up to here are floats too."""
_JSON = json.JSONDecoder(object_pairs_hook=strict_json.unique, parse_constant=float)


def dumps(tree: Any) -> bytes:
    """The payload of `tree`, as A1111 writes it. Values are widened to float64, which is exact."""
    return json.dumps(tree, default=_nested).encode()


def loads(payload: bytes, limits: Limits) -> Any:
    """The tree of a payload: F32 tensors where every number is a float32, F64 where one is not.

    Refusal where it is no JSON, too deep, of too many values, or holds a tensor of uneven lists.
    """
    if len(payload) > (limits.payload if payload.isascii() else limits.payload // 4):
        raise Refusal("payload-too-large", f"an embedding of {len(payload)} bytes, above the limit of {limits.payload}")
    if strict_json.most_values(payload) > limits.nodes:
        raise Refusal("payload-nodes", f"an embedding of more than {limits.nodes} values")
    try:
        tree = _JSON.decode(payload.decode())
    except (ValueError, RecursionError) as error:
        raise Refusal("payload-json", f"the embedding is no JSON: {str(error)[:200]}") from None
    if not isinstance(tree, dict):
        raise Refusal("payload-json", f"the embedding is a {type(tree).__name__}, where an object is expected")
    return _plain(tree, limits, 0)


def differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """Where two trees hold different values."""
    if isinstance(one, LazyTensor) and isinstance(other, LazyTensor):
        yield from _rows(one, other, place)
    elif isinstance(one, dict) and isinstance(other, dict):
        for key in one | other:
            inside = f"{place}.{key}" if place else key
            yield from differences(one[key], other[key], inside) if key in one and key in other else (inside,)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{place}.{index}")
    elif type(one) is not type(other) or one != other:
        yield place


def _nested(value: Any) -> Any:
    if not isinstance(value, LazyTensor):
        raise TypeError(f"a {type(value).__name__} has no place in a picture")
    return {_TENSOR: values(value).tolist()}


def _plain(value: Any, limits: Limits, depth: int) -> Any:
    if depth >= limits.depth:
        raise Refusal("payload-depth", f"more than {limits.depth} containers in one another")
    if isinstance(value, dict):
        if _TENSOR in value:
            return _tensor(value, limits)
        return {_text(name): _plain(item, limits, depth + 1) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, limits, depth + 1) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise Refusal("payload-json", f"{value} stands outside of a tensor")
    return _text(value) if isinstance(value, str) else value


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refusal("payload-json", f"{shown(text)} is half a character") from None
    return text


def _tensor(holder: dict[str, Any], limits: Limits) -> LazyTensor:
    if len(holder) != 1:
        raise Refusal("payload-tensor", f"a tensor beside {shown(next(name for name in holder if name != _TENSOR))}")
    items, shape = [holder[_TENSOR]], []
    while items and isinstance(items[0], list):
        extent = len(items[0])
        if any(not isinstance(item, list) or len(item) != extent for item in items):
            raise Refusal("payload-tensor", "a tensor whose lists are of different lengths")
        shape.append(extent)
        if len(shape) > limits.rank:
            raise Refusal("tensor-rank", f"a tensor of more than {limits.rank} axes")
        items = list(chain.from_iterable(items))
    if not all(type(item) is float or (type(item) is int and abs(item) <= _EXACT) for item in items):
        raise Refusal("payload-tensor", "a tensor that holds something other than numbers that a float64 has")
    dtype, numbers = _narrowest(items)
    if sys.byteorder == "big":
        numbers.byteswap()
    return from_bytes(dtype, tuple(shape), numbers.tobytes())


def _narrowest(items: list[float]) -> tuple[str, array[float]]:
    narrow = array("f", items)
    exact = all(a == b or (a != a and b != b) for a, b in zip(narrow, items, strict=True))
    return ("F32", narrow) if exact else ("F64", array("d", items))


def _rows(one: LazyTensor, other: LazyTensor, place: str) -> Iterator[str]:
    """The rows in which two tensors differ; `place` where they have different shapes, or no rows."""
    import numpy as np

    if one.shape != other.shape:
        yield place
        return
    left, right = np.atleast_1d(values(one)), np.atleast_1d(values(other))
    for index, pair in enumerate(zip(left, right, strict=True)):
        if not np.array_equal(*pair, equal_nan=True):
            yield f"{place}[{index}]"
