"""Descriptions in HTML, as Civitai gives them, to plain text and back.

Not by `html.parser`: it takes half a minute for 256 KB of comments that are begun and never ended. One regular expression
that looks at every character once is enough to drop tags.
"""

from __future__ import annotations

import html
import re

from adapterhub.registry.facts.fact import TEXT_CHARACTERS, text_of_lines

_PARAGRAPHS = frozenset("p h1 h2 h3 h4 h5 h6 ul ol table blockquote pre hr".split())
_LINES = frozenset("div li tr".split())
_WITHIN = frozenset("a abbr b body br code dd del dl dt em figure font head html i iframe img ins kbd link mark meta noscript s "
                    "small span strike strong sub sup svg tbody td th thead title u video".split())  # fmt: skip
_DROPPED = frozenset("script style template".split())
_KNOWN = _PARAGRAPHS | _LINES | _WITHIN | _DROPPED
_MARKUP = re.compile(rf"<(?:/(?:{'|'.join(sorted(_KNOWN))})>|br ?/?>|img |hr ?/?>|p>)", re.IGNORECASE)
"""What only HTML has: a prompt with `<lora:style:1>` in it is none."""
_TOKEN = re.compile(r"<!--.*?(?:-->|\Z)|<[!?][^<>]*>|<(/?)([a-z][^\s/<>]*)[^<>]*>|[^<]+|<", re.IGNORECASE | re.DOTALL)


def plain(text: str) -> str:
    """The text of HTML: paragraphs between empty lines, each item of a list a line; of any other text, the text itself.

    Scripts and styles are dropped, and so are tags; what only looks like one (`<lora:style:1>`) stays.
    """
    text = text[: 4 * TEXT_CHARACTERS].replace("\0", "")
    if not _MARKUP.search(text):
        return text_of_lines(text)
    page = _Page()
    for token in _TOKEN.finditer(text):
        page.read(token[0], closing=token[1] == "/", tag=(token[2] or "").lower())
    return text_of_lines("".join(page.parts))


def marked(text: str) -> str:
    """HTML of which `plain` gives `text`, as it stands in a fact."""
    text = re.sub(r"(?m)^ |(?<= ) ", "\N{NO-BREAK SPACE}", text)  # HTML would join blanks
    paragraphs = (html.escape(part, quote=False).replace("\n", "<br>") for part in text.split("\n\n"))
    return "".join(f"<p>{part}</p>" for part in paragraphs)


class _Page:
    """What was read of a page, as text."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._dropping = ""

    def read(self, token: str, *, closing: bool, tag: str) -> None:
        if self._dropping:
            if closing and tag == self._dropping:
                self._dropping = ""
        elif tag in _DROPPED:
            self._dropping = "" if closing else tag
        elif tag in _KNOWN:
            self._break(tag, closing=closing)
        elif tag or not token.startswith(("<!", "<?")):
            self._write(html.unescape(token))

    def _write(self, text: str) -> None:
        text = re.sub(r"[ \t\n\r\f]+", " ", text)
        if text.startswith(" ") and (not self.parts or self.parts[-1].endswith(("\n", " "))):
            text = text[1:]
        if text:
            self.parts.append(text)

    def _break(self, tag: str, *, closing: bool) -> None:
        """A paragraph is set apart by an empty line; an item begins a line, and `<br>` ends one."""
        if tag == "br":
            self.parts.append("\n")
        elif tag in _PARAGRAPHS:
            self._end_line(2)
        elif tag in _LINES:
            self._end_line(1)
        if tag == "li" and not closing:
            self.parts.append(_ITEM)

    def _end_line(self, count: int) -> None:
        """At least `count` ends of lines stand at the end, if anything stands there but the mark of an item."""
        if self.parts and self.parts[-1] is not _ITEM:
            written = "".join(self.parts[-2:])
            self.parts.append("\n" * max(0, count - (len(written) - len(written.rstrip("\n")))))


_ITEM = "- "
