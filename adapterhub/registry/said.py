"""What is said about a record, settled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Fact:
    field: str
    value: Any
    origin: str


def said_of(facts: Iterable[Fact]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {
        name: [] for name in ("title", "words", "tags", "notes", "description", "training_tags", "aliases")
    }
    hidden = set()
    for fact in facts:
        if fact.field == "tags_removed":
            hidden |= {one.casefold() for one in fact.value}
        if fact.field in found:
            found[fact.field] += fact.value if isinstance(fact.value, list) else [str(fact.value)]
    found["tags"] = [tag for tag in found["tags"] if tag.casefold() not in hidden]
    return found
