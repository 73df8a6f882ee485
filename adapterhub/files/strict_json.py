"""JSON read without the liberties that Python's reader takes: no repeated names, no NaN, no infinities.

`header` is for safetensors headers. It gives objects as tuples of pairs, so that repeated names are still there to be
seen, and arrays as lists: the two cannot be taken for each other. Numbers are integers.
"""

from __future__ import annotations

import json
import math
import re
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
        require_unique([name for name, _ in pairs])
    return result


def require_unique(names: list[str]) -> None:
    """Raises RepeatedName if a name stands twice."""
    if len(set(names)) != len(names):
        raise RepeatedName(Counter(names).most_common(1)[0][0])


def loads(text: str) -> Any:
    """The value of a JSON document. ValueError or RecursionError where it is none, or where a text has half a character."""
    value = _DOCUMENT.decode(text)
    if r"\u" in text:
        require_unicode(value)
    return value


def header(text: str) -> tuple[Any, int]:
    """The value that `text` begins with, and where it ends. ValueError or RecursionError where there is none."""
    decoder = _WARY_HEADER if "-0" in text and _MINUS_ZERO.search(text) else _HEADER
    return decoder.raw_decode(text)


def most_values(document: bytes) -> int:
    """How many values there are in a document, at most: signs that stand in texts count too."""
    return 1 + sum(document.count(sign) for sign in (b"[", b"{", b","))


def plain(value: Any) -> Any:
    """What `header` gave, as dictionaries and lists. RepeatedName where a name stands twice, however deep."""
    if isinstance(value, tuple):
        return {name: plain(item) for name, item in unique(value).items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def require_unicode(value: Any) -> None:
    """Raises UnicodeEncodeError, a ValueError, where a text of `value` holds half a surrogate pair."""
    json.dumps(value, ensure_ascii=False).encode()


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]} stands where only integers may stand")


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _integer(text: str) -> int:
    if text == "-0":
        raise ValueError("-0 is no integer")
    return int(text)


_MINUS_ZERO = re.compile(r"-0(?=[\s,\]}])")
_HEADER = json.JSONDecoder(object_pairs_hook=tuple, parse_float=_no_float, parse_constant=_no_constant)
# Asking a function about every integer takes time: only where the text could hold a -0, which safetensors refuses.
_WARY_HEADER = json.JSONDecoder(
    object_pairs_hook=tuple, parse_float=_no_float, parse_int=_integer, parse_constant=_no_constant
)
_DOCUMENT = json.JSONDecoder(object_pairs_hook=unique, parse_float=_finite, parse_constant=_no_constant)
