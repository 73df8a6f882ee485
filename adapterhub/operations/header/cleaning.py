"""cleaned: metadata without what tells about the machine or the person that made the file. Pure: push uses it too.

Texts that hold JSON are cleaned within: their strings are looked at as they read, and only those that change are written anew,
so that everything else stays byte for byte. Nothing that was removed is repeated in what is found.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping

from adapterhub.documents import Redaction
from adapterhub.documents.header import Private
from adapterhub.operations.header.private import PATTERNS, REMOVED, by_name, pieces

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"(\s*+:)?', re.DOTALL)
"""A string of JSON, and whether it is the name of a member."""
_DEEPEST = 6
"""JSON in strings of JSON; below that, text is text."""
_AGAIN = 8
"""How often a text is looked over until nothing is left."""

Found = Counter[Private]
"""How often something of a kind was found."""


def cleaned(metadata: Mapping[str, str]) -> tuple[dict[str, str], list[Redaction]]:
    """The fields without what is private, and what was taken out of each. What is clean already comes back as it is.

    A local path becomes its last name; a field that is private by its own name goes, one of nothing else as well.
    """
    kept: dict[str, str] = {}
    findings: list[Redaction] = []
    for field, text in metadata.items():
        what = by_name(field) or _of_name(field)
        if what is not None:
            findings.append(Redaction(field=_shown(field), what=what, count=1, removed=True))
            continue
        found = Found()
        now = _cleaned(text, found, _DEEPEST)
        gone = bool(found) and now in ("", REMOVED)
        findings += [
            Redaction(field=field, what=what, count=count, removed=gone, now=None if gone else now[:_SHOWN])
            for what, count in sorted(found.items())
        ]
        if not gone:
            kept[field] = now
    return kept, findings


_SHOWN = 300
"""Characters of a cleaned field that a finding repeats."""


def _of_name(field: str) -> Private | None:
    found: Counter[Private] = Found()
    _plain(field, found)
    return next(iter(found), None)


def _shown(field: str) -> str:
    return _plain(field, Found())


def _cleaned(text: str, found: Found, depth: int) -> str:
    if depth and text.lstrip()[:1] in ("{", "[", '"') and _is_json(text):
        return _within(text, found, depth)
    plain = _plain(text, found)
    if depth and plain != text:  # what was in the way of JSON may be gone
        return _cleaned(plain, found, depth - 1)
    return plain


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _within(text: str, found: Found, depth: int) -> str:
    """JSON whose strings are clean; names of members stay different from each other."""
    names = {json.loads(token[0].removesuffix(token[1]), strict=False) for token in _TOKEN.finditer(text) if token[1]}
    renamed: dict[str, str] = {}
    before: str | None = None
    end = 0

    def clean(token: re.Match[str]) -> str:
        nonlocal before, end
        colon = token[1] or ""
        old = json.loads(token[0].removesuffix(colon), strict=False)
        if colon:
            before, end = old, token.end()
            new = _renamed(old, names, renamed, found)
        else:
            owner = before if before is not None and not text[end : token.start()].strip() else None
            new = _member(old, owner, found, depth)
        ascii_ = token[0].isascii() or r"\u" in token[0]  # halves of characters can only be escaped
        return token[0] if new == old else json.dumps(new, ensure_ascii=ascii_) + colon

    return _TOKEN.sub(clean, text)


def _renamed(old: str, names: set[str], renamed: dict[str, str], found: Found) -> str:
    if old in renamed:
        return renamed[old]
    wanted = new = _plain(old, found)
    place = 1
    while new != old and new in names:
        place += 1
        new = f"{wanted} ({place})"
    names.add(new)
    renamed[old] = new
    return new


def _member(text: str, owner: str | None, found: Found, depth: int) -> str:
    """The string that is the value of `owner`, or stands in a list."""
    what = by_name(owner) if owner is not None else None
    if what is None:
        return _cleaned(text, found, depth - 1)
    if text not in ("", REMOVED):
        found[what] += 1
        return REMOVED
    return text


def _plain(text: str, found: Found) -> str:
    """Text without anything that a pattern finds; what comes to light by a removal is looked at again."""
    for _ in range(_AGAIN):
        now = "".join(part if is_picture else _once(part, found) for part, is_picture in pieces(text))
        if now == text:
            return text
        text = now
    return REMOVED


def _once(text: str, found: Found) -> str:
    for pattern in PATTERNS:
        text, count = pattern.pattern.subn(pattern.kept, text)
        if count:
            found[pattern.what] += count
    return text
