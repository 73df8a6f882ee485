"""The YAML at the head of a card: what there is stays, line by line, and ours goes in beside it.

Source: hub-docs `modelcard.md` (the fields); huggingface_hub `repocard.py` (`REGEX_YAML_BLOCK`: where it begins and ends).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from adapterhub.errors import UsageError

MOST = 1 << 16
"""Bytes of front matter that are read."""
_FENCE = re.compile(r"---[ \t]*(\r?\n|\Z)")
_KEY = re.compile(r"[^\s#\-\[\]{},&*!|>'\"%@`][^:#]*:(\s|\Z)")
_DEEPEST = 16
_UNITED = "tags"
"""The field of which both sides count."""


def divided(card: str) -> tuple[str, str]:
    """The front matter without its fences, empty where there is none, and the body. UsageError where it has no end."""
    start = _FENCE.match(card.lstrip("\ufeff"))
    if start is None:
        return "", card
    lines = card.lstrip("\ufeff")[start.end() :].splitlines(keepends=True)
    for number, line in enumerate(lines):
        if _FENCE.fullmatch(line):
            return "".join(lines[:number]), "".join(lines[number + 1 :])
    raise _broken("its front matter has no end")


def parsed(text: str) -> dict[str, Any]:
    """The fields. UsageError where that is no mapping of names."""
    if len(text) > MOST:
        raise _broken(f"its front matter is longer than {MOST} characters")
    try:
        _require_plain(text)
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _broken("its front matter is no YAML") from error
    if not isinstance(found or {}, dict) or not all(isinstance(key, str) for key in found or {}):
        raise _broken("its front matter is no mapping of names")
    return found or {}


def _require_plain(text: str) -> None:
    """No aliases, which grow without bound when they are written out, and few levels: PyYAML's time grows with their square."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > _DEEPEST:
            raise _broken(f"its front matter has aliases, or more than {_DEEPEST} levels")


def merged(text: str, ours: Mapping[str, Any], settled: Iterable[str]) -> str:
    """The front matter with our fields: `settled` ones as we have them, others as they are if they are there. Tags are united."""
    theirs = parsed(text)
    wanted = {key: value for key, value in ours.items() if key not in theirs or key in settled}
    if _UNITED in ours:
        there = theirs.get(_UNITED)
        tags = there if isinstance(there, list) else [] if there is None else [there]
        wanted[_UNITED] = [*tags, *(tag for tag in ours[_UNITED] if tag not in tags)]
    changed = {key: value for key, value in wanted.items() if theirs.get(key) != value}
    return _put(text, theirs, changed)


def dumped(fields: Mapping[str, Any]) -> str:
    """The fields as YAML, in their order."""
    if not fields:
        return ""
    return str(yaml.safe_dump(dict(fields), sort_keys=False, allow_unicode=True, width=10_000))


def _put(text: str, theirs: Mapping[str, Any], changed: Mapping[str, Any]) -> str:
    """The lines with those of changed fields anew; if that does not read as it should, all of it written anew."""
    left = dict(changed)
    parts = [dumped({key: left.pop(key)}) if key in left else block for key, block in _blocks(text)]
    lines = "".join(parts)
    lines += "\n" if lines and not lines.endswith("\n") else ""
    lines += dumped(left)
    expected = {**theirs, **changed}
    try:
        fits = parsed(lines) == expected
    except UsageError:
        fits = False
    return lines if fits else dumped(expected)


def _blocks(text: str) -> list[tuple[str, str]]:
    """The lines by the field that they belong to; those before the first have none."""
    blocks: list[tuple[str, str]] = [("", "")]
    for line in text.splitlines(keepends=True):
        if _KEY.match(line):
            blocks.append((line.partition(":")[0].strip(), line))
        else:
            blocks[-1] = (blocks[-1][0], blocks[-1][1] + line)
    return blocks


def _broken(what: str) -> UsageError:
    return UsageError(
        f"README.md in the repository cannot be kept: {what}", mend="Mend it on the Hub, or delete it there."
    )
