"""Text in a header that is well-formed but looks as if it meant harm, or could: shown escaped, never interpreted."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from itertools import chain
from typing import NamedTuple

from adapterhub.files.limits import LONG_NAME
from adapterhub.files.package import Problem


class Suspicion(NamedTuple):
    code: str
    pattern: re.Pattern[str]
    message: str


_CONTROLS = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029"  # without tab, line feed, carriage return
_BIDI = Suspicion(
    "bidirectional-text", re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"), "holds marks that turn text"
)
_IN_NAMES = (
    Suspicion("control-characters", re.compile(f"[{_CONTROLS}\t\n\r]"), "holds control characters"),
    _BIDI,
    Suspicion("path-like-name", re.compile(r"[/\\]|\A\.\.?\Z|\A[A-Za-z]:"), "looks like a path"),
    Suspicion("empty-name", re.compile(r"\A\Z"), "is empty"),
    Suspicion("enormous-name", re.compile(rf"(?s)\A.{{{LONG_NAME + 1}}}"), f"is longer than {LONG_NAME} characters"),
)
_IN_METADATA = (
    Suspicion("control-characters", re.compile(f"[{_CONTROLS}]"), "holds control characters"),
    _BIDI,
    Suspicion(
        "active-text",
        re.compile(
            r"(?i)(?!<embed>\Z)<\s*(script|iframe|img|svg|object|embed|style|link|meta|html|a)\b|\{\{|\{%|\$\{|!!python/|javascript:"
            r"|data:text/html|file://|drop table"
        ),
        "holds text that a web page, a template or a database would act on",
    ),
)
# Signs that are quick to look for, without which no pattern can match text that is calm.
_NAME_SIGNS = ("/", "\\", ":")
_METADATA_SIGNS = ("<", "{{", "{%", "${", "!!python/", "javascript:", "data:text/html", "file://", "drop table")
_PRINTABLE = bytes(range(0x20, 0x7F))
_LINES = _PRINTABLE + b"\t\n\r"


def of_names(names: Collection[str]) -> list[Problem]:
    """A warning for each way in which tensor names are odd; it names the first of them and counts the others."""
    everything = "".join(names)
    if _is_calm(everything) and not any(sign in everything for sign in _NAME_SIGNS):
        names = [name for name in names if len(name) > LONG_NAME or name in ("", ".", "..")]
    return _problems(_IN_NAMES, dict.fromkeys(names, ""), "name")


def of_metadata(metadata: Mapping[str, str]) -> list[Problem]:
    """A warning for each way in which metadata fields are odd, keys and values alike."""
    if _says_nothing("".join(chain.from_iterable(metadata.items()))):
        return []
    suspects = {key: value for key, value in metadata.items() if not _says_nothing(key + value)}
    return _problems(_IN_METADATA, suspects, "field", "__metadata__.")


def _is_calm(text: str, allowed: bytes = _PRINTABLE) -> bool:
    """Whether `text` is printable ASCII; quicker than `isprintable`, and this is asked of every file."""
    return text.isascii() and not text.encode().translate(None, allowed)


def _says_nothing(text: str) -> bool:
    """Whether no pattern of metadata can match `text`, which may have several lines."""
    lowered = text.lower()
    return _is_calm(text, _LINES) and not any(sign in lowered for sign in _METADATA_SIGNS)


def _problems(
    suspicions: tuple[Suspicion, ...], fields: Mapping[str, str], noun: str, before: str = ""
) -> list[Problem]:
    """Of names with what stands under them, joined one at a time: there may be many."""
    found = []
    for code, pattern, message in suspicions:
        places = [name for name, text in fields.items() if pattern.search(name + text)]
        if places:
            others = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
            found.append(Problem("warning", code, before + places[0], f"the {noun}{others} {message}"))
    return found
