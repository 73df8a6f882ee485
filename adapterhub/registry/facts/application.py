"""What the application that keeps a file says of it, as facts."""

from __future__ import annotations

from collections.abc import Mapping

from adapterhub.registry.facts.fact import Fact, WrongType, make

_FIELDS: Mapping[str, Mapping[str, str]] = {
    "invokeai": {"name": "title", "description": "description", "trigger_phrases": "words", "base": "base_model",
                 "source": "source"},
    "huggingface": {"repository": "repository", "revision": "revision", "sha256": "hash.sha256"},
    "pulled": {"repository": "repository", "revision": "revision", "source": "source"},
    "pushed": {"repository": "repository", "revision": "revision"},
}  # fmt: skip
"""Origin → what is told → the field that it is."""


def of_application(told: Mapping[str, str | list[str]]) -> list[Fact]:
    """The facts in what `registry.places` found to be told of a file; what is not of its field's sort says nothing."""
    return _facts("huggingface" if told.keys() & _FIELDS["huggingface"].keys() else "invokeai", told)


def of_transfer(origin: str, told: Mapping[str, str]) -> list[Fact]:
    """The facts of what was "pulled" or "pushed": `repository` and `revision` on the Hub, or its `source`."""
    return _facts(origin, told)


def _facts(origin: str, told: Mapping[str, str | list[str]] | Mapping[str, str]) -> list[Fact]:
    found = []
    for name, field in _FIELDS[origin].items():
        try:
            fact = make(field, told.get(name), origin)
        except WrongType:
            continue
        if fact is not None:
            found.append(fact)
    return found
