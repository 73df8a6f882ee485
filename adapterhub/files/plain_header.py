"""The tensors of a header as safetensors itself spells it, which nearly every writer uses: one pattern takes them out of the
text, several times as fast as JSON is read and looked through.

What is left, the metadata, is for the strict reader, and so is all of a header that differs by as much as a space.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from operator import sub
from typing import NamedTuple

from adapterhub.files.limits import Limits
from adapterhub.files.package import Problem
from adapterhub.files.suspicions import of_names
from adapterhub.tensors import DTYPE_BITS, Shape

METADATA = "__metadata__"
_BEGINS = '":{"dtype":"'
_OFFSETS = '"data_offsets"'
_ENTRY = re.compile(
    r'"([^"]*)":{"dtype":"([^"]*","shape":\[[0-9,]*)\],' + _OFFSETS + r":\[(0|[1-9][0-9]*),([1-9][0-9]*)\]}(?:,|} *\Z)"
)
"""Name, dtype with shape, begin and end of a tensor, up to the comma before the next or the end of the header. No part of it
can run past a quote, so that a text which is none takes no longer than its length.
"""
_KIND = re.compile(r'([A-Z0-9_]+)","shape":(\[[0-9,]*)')
_NEVER_IN_NAMES = bytes((*range(0x20), *rb"\[{"))
"""What JSON escapes, and what the strict reader counts as signs of lists and objects."""

Row = tuple[int, int, str, str, Shape]
"""One tensor of a header: begin and end, counted from the end of the header, name, dtype, shape."""


class Columns(NamedTuple):
    """All tensors of a header; as rows, they would be thousands of objects that nobody needs. Not to be changed: headers share them."""

    begins: list[int]
    ends: list[int]
    names: list[str]
    dtypes: list[str]
    shapes: list[Shape]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Columns:
        """The columns of `rows`."""
        return cls(*map(list, zip(*rows, strict=True))) if rows else cls([], [], [], [], [])


class Tensors(NamedTuple):
    """The tensors of a header, whose names are all different and whose bytes follow each other; `odd` is what is odd about names."""

    columns: Columns
    odd: tuple[Problem, ...]

    @property
    def size(self) -> int:
        """How many bytes they have together."""
        return self.columns.ends[-1]


class Plain(NamedTuple):
    """Tensors of a header, and its text without them."""

    tensors: Tensors
    rest: str


def plain(text: str, limits: Limits) -> Plain | None:
    """The tensors of a header that stand behind everything else, plainly spelled and in order, each as long as its shape says; None
    where they are not all so.
    """
    if text.count(_OFFSETS) > limits.tensors:
        return None
    first = text.rfind(
        '"', 0, max(text.find(_BEGINS), 0)
    )  # no text within JSON has this many quotes that are not escaped
    head = text[: max(first, 0)]
    if head != "{" and not (head.startswith(f'{{"{METADATA}":') and head.endswith(",")):
        return None
    tensors = _tensors(text[first:].rstrip(" "), limits)
    return None if tensors is None else Plain(tensors, head.removesuffix(",") + "}")


@lru_cache(maxsize=16)
def _tensors(text: str, limits: Limits) -> Tensors | None:
    """The tensors in the part of a header that has nothing else. Adapters of one trainer and rank have it in common, so that
    of a folder full of them it is taken apart a few times.
    """
    between, *parts = _ENTRY.split(text)
    names, kinds, begins, ends, after = (parts[column::5] for column in range(5))
    if between or any(after) or METADATA in names or not _are_plain(names):
        return None
    try:
        known = {kind: _measured(kind, limits) for kind in set(kinds)}
        stops = list(map(int, ends))
    except (KeyError, ValueError):
        return None
    dtypes, shapes, sizes = map(list, zip(*map(known.__getitem__, kinds), strict=True))
    starts = [0, *stops[:-1]]
    if begins != ["0", *ends[:-1]] or list(map(sub, stops, starts)) != sizes or len(set(names)) != len(names):
        return None
    return Tensors(Columns(starts, stops, names, dtypes, shapes), tuple(of_names(names)))


def _are_plain(names: list[str]) -> bool:
    """Whether there are names, none of which has anything that JSON escapes or that could be taken for its signs."""
    together = "".join(names).encode()
    return bool(together) and len(together.translate(None, _NEVER_IN_NAMES)) == len(together)


def _measured(kind: str, limits: Limits) -> tuple[str, Shape, int]:
    """Dtype, shape and bytes. KeyError or ValueError for what the strict reader must judge, empty tensors too."""
    if (told := _KIND.fullmatch(kind)) is None:
        raise ValueError
    dtype, shape = told[1], tuple(json.loads(f"{told[2]}]"))
    bits = DTYPE_BITS[dtype] * math.prod(shape)
    if not bits or bits % 8 or len(shape) > limits.rank:
        raise ValueError
    return dtype, shape, bits // 8
