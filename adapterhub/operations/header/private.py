"""What tells about somebody's machine or person, as patterns, and what is put in its place.

No pattern looks back over what it has passed, so that a text takes no longer than its length, whatever it is made of.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from adapterhub.documents.header import Private

REMOVED = "[removed]"
"""Stands where nothing can be kept."""
_ROOTS = (
    "content data gpfs home kaggle lustre media mnt net nfs notebooks nvme opt private root run runpod-volume scratch srv "
    "storage teamspace tmp usr Users var Volumes workspace"
).split()
"""What a path begins with within a text; one that is a text of its own, or an item of a list, may begin with anything."""
_HOMES = frozenset({"home", "users", "documents and settings"})
"""What the folder of a person lies in."""
_BLANK = r"[^\s/\\\"'<>|*?,;]"
_BETWEEN = r"[^\n\r\t/\\\"'<>|*?,;]"
_SEGMENT = rf"{_BLANK}(?:{_BETWEEN}{{0,120}}{_BLANK})?"
"""A folder's name, which may have spaces within."""
_LAST = rf"{_BLANK}*+"
_START = r"(?:(?<![\s\S])|(?<=[,;\n])|(?<=[,;]\ ))"
_ALONE = r"(?<![\w.:/+<#&?%~\\-])"


class Pattern(NamedTuple):
    """`what` a match is, and what is `kept` of it."""

    what: Private
    pattern: re.Pattern[str]
    kept: Callable[[re.Match[str]], str]


def _nothing(found: re.Match[str]) -> str:
    return REMOVED


def _name(found: re.Match[str]) -> str:
    """The last part of a path, unless that is the folder of a person."""
    parts = [part for part in re.split(r"[/\\]+", found[0].removeprefix("file:")) if part]
    if len(parts) < 2 or parts[-2].casefold() in _HOMES or parts[-1].startswith("~") or parts[-1].endswith(":"):
        return REMOVED
    return parts[-1]


def _unvalued(found: re.Match[str]) -> str:
    return f"{found[1]}={REMOVED}"


def _row(what: Private, pattern: str, kept: Callable[[re.Match[str]], str] = _nothing, flags: int = 0) -> Pattern:
    return Pattern(what, re.compile(pattern, flags), kept)


_EDGE, _WORD = r"(?<![A-Za-z0-9])", r"(?<![A-Za-z0-9_-])"
PATTERNS = (
    _row("url-with-credentials", r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{0,20}+://[^\s/@\"'<>\[\]]++@[^\s\"'<>]*+"),
    _row("secret", r"(?<=[?&])(token|api_?key|access_token|auth|signature|sig|X-Amz-[A-Za-z]{1,32}+)=[^&\s\"'<>\[\]#]++",
         _unvalued, re.IGNORECASE),
    _row("secret", _EDGE + r"(?:hf_|api_org_)[A-Za-z0-9]{16,}+"),
    _row("secret", _EDGE + r"(?:sk-[A-Za-z0-9_-]{20,}+|[sr]k_live_[A-Za-z0-9]{16,}+)"),
    _row("secret", _EDGE + r"(?:gh[pousr]_[A-Za-z0-9]{16,}+|github_pat_[A-Za-z0-9_]{16,}+|glpat-[A-Za-z0-9_-]{16,}+)"),
    _row("secret", _EDGE + r"(?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])"),
    _row("secret", _EDGE + r"(?:xox[abprs]-[A-Za-z0-9-]{10,}+|AIza[A-Za-z0-9_-]{35}|r8_[A-Za-z0-9]{20,}+)"),
    _row("secret", _WORD + r"eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{4,}+(?:\.[A-Za-z0-9_-]*+)?"),
    _row("secret", r"-----BEGIN [A-Z ]{0,24}PRIVATE KEY-----[A-Za-z0-9+/=\s\\]*+(?:-----END [A-Z ]{0,24}PRIVATE KEY-----)?"),
    _row("e-mail", r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]++@(?:[A-Za-z0-9-]++\.)+[A-Za-z]{2,}+"),
    _row("local-path", rf"\bfile:/+(?:{_SEGMENT}[/\\]+)*{_LAST}", _name, re.IGNORECASE),
    _row("local-path", rf"(?<![A-Za-z0-9])[A-Za-z]:[/\\]+(?=[\w.$(~-])(?:{_SEGMENT}[/\\]+)*{_LAST}", _name),
    _row("local-path", rf"(?<![\w.\\:])\\\\+[\w.$-]++\\+(?:{_SEGMENT}[/\\]+)*{_LAST}", _name),
    _row("local-path", rf"{_ALONE}/(?:{'|'.join(_ROOTS)})/+(?:{_SEGMENT}/+)*{_LAST}", _name),
    _row("local-path", rf"{_START}//?(?:{_SEGMENT}/+)+{_LAST}", _name),
    _row("local-path", rf"{_ALONE}~[\w.-]{{0,64}}+/+(?:{_SEGMENT}/+)*{_LAST}", _name),
)  # fmt: skip
"""In the order in which they are asked."""


def local_path(text: str) -> str | None:
    """The first folder or file of somebody's machine that the text names."""
    parts = [part for part, encoded in pieces(text) if not encoded]
    every = (pattern.search(part) for part in parts for what, pattern, _ in PATTERNS if what == "local-path")
    return next((found[0] for found in every if found), None)


_SECRET_NAME = re.compile(
    r"(?:\A|[_.\-])(?:api_?key|hf_token|huggingface_token|hub_token|access_token|auth_token|bearer|secret|secret_key|"
    r"client_secret|password|passwd|credentials?|private_key)\Z", re.IGNORECASE
)  # fmt: skip
_MACHINE_NAME = re.compile(
    r"(?:\A|[_.\-])(?:host_?name|computer_?name|machine_?name|username|user_name|session_id)\Z", re.IGNORECASE
)
_NAMED: tuple[tuple[Private, re.Pattern[str]], ...] = (("secret", _SECRET_NAME), ("machine", _MACHINE_NAME))


def by_name(name: str) -> Private | None:
    """What a field of that name holds, whatever its value, if that is private: Kohya's `ss_session_id`, `wandb_api_key` …"""
    return next((what for what, pattern in _NAMED if pattern.search(name)), None)


_PICTURE = re.compile(r"data:[\w/+.-]{1,64}+;base64,[A-Za-z0-9+/=]*+")
_ENCODED = re.compile(r"(?:/9j/|iVBORw0|UklGR|R0lGOD)[A-Za-z0-9+/\s]{64,}+=*+")
"""How a JPEG, a PNG, a WebP and a GIF begin in base64: A1111's `ssmd_cover_images`."""


def pieces(text: str) -> list[tuple[str, bool]]:
    """The text in parts, and whether each is a picture in base64, whose letters mean nothing."""
    if _ENCODED.fullmatch(text):
        return [(text, True)]
    parts: list[tuple[str, bool]] = []
    at = 0
    for found in _PICTURE.finditer(text):
        parts += [(text[at : found.start()], False), (found[0], True)]
        at = found.end()
    return [*parts, (text[at:], False)]
