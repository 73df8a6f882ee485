"""JSON read without the liberties that Python's reader takes: no repeated names, no NaN, no infinities.

`HEADER` is for safetensors headers. It gives objects as tuples of pairs, so that repeated names are still there to be
seen, and arrays as lists: the two cannot be taken for each other. Numbers are integers.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NoReturn


class RepeatedName(ValueError):
    """`name` stands twice in one object."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} stands twice in one object")
        self.name = name


def unique(pairs: tuple[tuple[str, Any], ...] | list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of `pairs`. RepeatedName if a name stands twice."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise RepeatedName(Counter(name for name, _ in pairs).most_common(1)[0][0])
    return result


def loads(text: str) -> Any:
    """The value of a JSON document. ValueError or RecursionError where it is none."""
    return _DOCUMENT.decode(text)


def plain(value: Any) -> Any:
    """What HEADER gave, as dictionaries and lists. RepeatedName where a name stands twice, however deep."""
    if isinstance(value, tuple):
        return {name: plain(item) for name, item in unique(value).items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]} stands where only integers may stand")


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


HEADER = json.JSONDecoder(object_pairs_hook=tuple, parse_float=_no_float, parse_constant=_no_constant)
_DOCUMENT = json.JSONDecoder(object_pairs_hook=unique, parse_float=_finite, parse_constant=_no_constant)
