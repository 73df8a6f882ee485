"""The card: front matter and body from what is known, put into the card that is there. What a person wrote stays.

Our part of the body stands between two lines of comments; of the front matter we write only what `settled` names, and what
is missing. A card with a token or a local path in our part is never made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapterhub.errors import RefusedInput
from adapterhub.hub import front_matter
from adapterhub.operations.header.cleaning import cleaned

BEGIN = "<!-- adapterhub:begin: written by adapterhub push, which writes it anew each time; write above or below -->"
END = "<!-- adapterhub:end -->"
LONGEST = 1 << 20
"""Bytes of a card."""


@dataclass(frozen=True)
class Part:
    """What we say: `fields` of the front matter, of which `settled` are so whatever was there, and the body."""

    fields: Mapping[str, Any]
    settled: frozenset[str]
    body: str


def written(part: Part, there: str | None) -> str:
    """The whole card. UsageError where the old one cannot be kept, RefusedInput where ours would tell what is private."""
    require_clean(part)
    head, body = front_matter.divided(there or "")
    head = front_matter.merged(head, part.fields, part.settled)
    return f"---\n{head}---\n{_placed(part.body, body)}"


def require_clean(part: Part) -> None:
    """RefusedInput if a token, a local path or an e-mail address is left in our part."""
    _, found = cleaned({"front matter": front_matter.dumped(part.fields), "card": part.body})
    if found:
        places = ", ".join(sorted({f"{one.what} in the {one.field}" for one in found}))
        raise RefusedInput(
            f"the card would tell what is private: {places}",
            mend="Look at the file's metadata (adapterhub metadata SRC --clean-private), and at what the options say.",
        )


def _placed(ours: str, body: str) -> str:
    """Our part in the place of the old one; below what is there, if there was none."""
    block = f"{BEGIN}\n{ours.rstrip()}\n{END}\n"
    lines = body.splitlines(keepends=True)
    begins = [number for number, line in enumerate(lines) if line.startswith("<!-- adapterhub:begin")]
    ends = [number for number, line in enumerate(lines) if line.strip() == END and begins and number > begins[0]]
    if begins and ends:
        return "".join([*lines[: begins[0]], block, *lines[ends[0] + 1 :]])
    if not body.strip():
        return f"\n{block}"
    return f"{body.rstrip()}\n\n{block}"
