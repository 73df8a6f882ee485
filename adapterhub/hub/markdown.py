"""Text from files in Markdown: it stays text, whatever it holds. Source: CommonMark 0.31 (code spans, backslash escapes).

A value stands in a code span, in which nothing means anything, or is escaped sign by sign; either way on one line.
"""

from __future__ import annotations

import re
import string

SHOWN = 300
"""Characters of a value that a card shows."""
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
_SIGNS = {sign: _ENTITIES.get(sign, f"\\{sign}") for sign in string.punctuation}


def one_line(text: object, longest: int = SHOWN) -> str:
    """The text on one line, of printable characters alone, cut where it is long."""
    words = "".join(c if c.isprintable() else " " for c in str(text)[: longest * 4]).split()
    line = " ".join(words)
    return line if len(line) <= longest else f"{line[: longest - 1].rstrip()}…"


def code(text: object, longest: int = SHOWN) -> str:
    """The text in a code span: its fence is longer than any run of backticks within."""
    line = one_line(text, longest)
    if not line:
        return ""
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def codes(texts: object, longest: int = SHOWN) -> str:
    """Several code spans, a comma between."""
    assert isinstance(texts, list | tuple)
    return ", ".join(filter(None, (code(text, longest) for text in texts)))


def escaped(text: object, longest: int = SHOWN) -> str:
    """The text as prose, every sign of Markdown and HTML made harmless."""
    return "".join(_SIGNS.get(c, c) for c in one_line(text, longest))


def title(name: str) -> str:
    """A name of a repository as a heading shows it."""
    return re.sub(r"([_~])", r"\\\1", name)
