"""A fact: one thing that somebody says about a file, in a form that does not depend on who says it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Value = str | int | float | bool | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """`field` is one of FIELDS and `origin` one of `precedence.ORIGINS`; `value` is as `tidy` gives it."""

    field: str
    value: Value
    origin: str


class Sort(StrEnum):
    """What the values of a field are; the words stand in messages."""

    LINE = "a text"
    TEXT = "a text of lines"
    LIST = "a list of texts"
    NUMBER = "a number"
    COUNT = "a whole number"
    FLAG = "true or false"
    HASH = "hexadecimal digits"


HASHES = {"sha256": 64, "autov1": 8, "autov2": 10, "autov3": 12, "sshs_model_hash": 64, "blake3": 64, "crc32": 8}
"""How many digits a claimed hash has, by its name in `files.every_digest`; its field is "hash." and the name."""

FIELDS: Mapping[str, Sort] = {
    "title": Sort.LINE,
    "alias": Sort.LINE,  # what A1111 calls a LoRA in prompts: Kohya's output name
    "description": Sort.TEXT,
    "version_name": Sort.LINE,
    "version_description": Sort.TEXT,
    "words": Sort.LIST,  # trigger words: what to write into a prompt
    "negative_text": Sort.TEXT,
    "notes": Sort.TEXT,
    "tags": Sort.LIST,
    "base_model": Sort.LINE,  # as the writer says it: "Pony", "SD1", "stable-diffusion-xl-v1-base"
    "strength": Sort.NUMBER,  # preferred
    "author": Sort.LINE,
    "licence": Sort.LINE,
    "source": Sort.LINE,  # an address
    "repository": Sort.LINE,  # on the Hugging Face Hub
    "revision": Sort.LINE,
    "nsfw": Sort.FLAG,
    "civitai_model": Sort.COUNT,
    "civitai_version": Sort.COUNT,
    "civitai_type": Sort.LINE,  # "LORA", "TextualInversion", …
    "training_tags": Sort.LIST,  # the most frequent first
    "trained_on": Sort.LINE,  # the file name of the base model
    "trained_on_hash": Sort.LINE,
    "network_module": Sort.LINE,
    "steps": Sort.COUNT,
    "epochs": Sort.COUNT,
    **{f"hash.{name}": Sort.HASH for name in HASHES},
}

LINE_CHARACTERS, TEXT_CHARACTERS, ENTRIES = 1_000, 65_536, 256
"""How much of a line, of a text and of a list is kept; an entry of a list is a line."""
MOST = 2**31 - 1
"""The largest count: StabilityMatrix reads ids into 32 bits."""
STRONGEST = 100.0

_NOTHING = frozenset({"", "none", "null", "unknown", "other", "n/a"})
"""What writers put where they have nothing to say."""
_HASH_OF_NOTHING = "e3b0c44298fc"
"""SHA-256 of no bytes, written by tools that could not read the file."""
_UNFIT = re.compile(r"[^\S\n]|[\0-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
"""Blanks of all kinds, and what no text should hold: control characters and halves of characters."""
_ENDS = re.compile(r"\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_EMPTY_LINES = re.compile(r"\n{3,}")
_HEX = re.compile(r"(?:0x)?([0-9a-f]+)", re.IGNORECASE)


class WrongType(ValueError):
    """The message completes "should be …, and is …"."""


def make(field: str, value: Any, origin: str) -> Fact | None:
    """The fact that `value` tells of `field`, or None where it tells nothing. WrongType where it is not of its sort."""
    tidied = tidy(field, value)
    return None if tidied is None else Fact(field, tidied, origin)


def tidy(field: str, value: Any) -> Value | None:
    """`value` as a fact holds it: bounded, without control characters; None for what says nothing.

    WrongType where it is not of the field's sort. Tidying twice changes nothing.
    """
    sort = FIELDS[field]
    return None if value is None else _TIDIERS[sort](field, value)


def text_of_lines(text: str) -> str:
    """A text whose lines end in a line feed, without control characters, blanks at ends of lines, and empty lines in a row."""
    text = _UNFIT.sub(_blank_or_nothing, _ENDS.sub("\n", text[: 4 * TEXT_CHARACTERS]))
    text = _EMPTY_LINES.sub("\n\n", "\n".join(part.rstrip(" ") for part in text.split("\n")))
    return text.strip("\n")[:TEXT_CHARACTERS].rstrip()


def line(text: str) -> str:
    """A text as one line: each run of blanks and ends of lines is a space."""
    text = _UNFIT.sub(_blank_or_nothing, text[: 4 * LINE_CHARACTERS])
    return " ".join(text.split())[:LINE_CHARACTERS].rstrip()


def says_nothing(text: str) -> bool:
    """Whether a text is "", "None", "Unknown" or the like."""
    return text.casefold() in _NOTHING


def _blank_or_nothing(found: re.Match[str]) -> str:
    return " " if found[0].isspace() else ""


def _wrong(sort: Sort, value: Any) -> WrongType:
    return WrongType(f"should be {sort}, and is {_NAMES.get(type(value), 'something else')}")


_NAMES = {dict: "an object", list: "a list", str: "another text", bool: "true or false", int: "a number",
          float: "a number"}  # fmt: skip


def _line(field: str, value: Any) -> str | None:
    if not isinstance(value, str):
        raise _wrong(Sort.LINE, value)
    text = line(value)
    return None if says_nothing(text) else text


def _text(field: str, value: Any) -> str | None:
    if not isinstance(value, str):
        raise _wrong(Sort.TEXT, value)
    text = text_of_lines(value)
    return None if says_nothing(text) else text


def _list(field: str, value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, list | tuple):
        raise _wrong(Sort.LIST, value)
    if any(not isinstance(item, str) for item in value):
        raise WrongType(f"should be {Sort.LIST}, and holds something else")
    return distinct(map(line, value)) or None


def distinct(entries: Iterable[str]) -> tuple[str, ...]:
    """The entries that are not empty, each once whatever its case, at most ENTRIES."""
    found: dict[str, str] = {}
    for entry in entries:
        if entry and len(found) < ENTRIES:
            found.setdefault(entry.casefold(), entry)
    return tuple(found.values())


def _number(field: str, value: Any) -> float | None:
    if isinstance(value, str):
        value = _parsed(value, float, Sort.NUMBER)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(Sort.NUMBER, value)
    if not -STRONGEST <= value <= STRONGEST:  # which NaN is not, either
        raise WrongType(f"should be a number up to {STRONGEST:g}")
    return float(value) or None  # 0 is A1111's word for "not told"


def _count(field: str, value: Any) -> int | None:
    if isinstance(value, str):
        value = _parsed(value, int, Sort.COUNT)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(Sort.COUNT, value)
    if not 0 <= value <= MOST:
        raise WrongType(f"should be a whole number up to {MOST}")
    return value or None


def _parsed(text: str, number: type[int] | type[float], sort: Sort) -> int | float | None:
    if says_nothing(text.strip()):
        return 0
    try:
        value = number(text[:40])
    except ValueError:
        raise _wrong(sort, text) from None
    return value if math.isfinite(value) else math.inf


def _flag(field: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(Sort.FLAG, value)
    return value


def _hash(field: str, value: Any) -> str | None:
    if not isinstance(value, str):
        raise _wrong(Sort.HASH, value)
    text = value.strip()
    if says_nothing(text):
        return None
    digits, count = _HEX.fullmatch(text[:100]), HASHES[field.removeprefix("hash.")]
    if not digits or len(digits[1]) < count:
        raise WrongType(f"should be {count} hexadecimal digits")
    found = digits[1][:count].lower()
    return None if found.startswith(_HASH_OF_NOTHING[:count]) else found


_TIDIERS = {
    Sort.LINE: _line, Sort.TEXT: _text, Sort.LIST: _list, Sort.NUMBER: _number, Sort.COUNT: _count,
    Sort.FLAG: _flag, Sort.HASH: _hash,
}  # fmt: skip
