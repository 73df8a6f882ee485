"""Who is believed where several say something about one file, and where they contradict each other or the file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from adapterhub.registry.facts.bases import architecture
from adapterhub.registry.facts.fact import Fact, Value, distinct

ORIGINS = (
    "user",  # edited in the registry
    "a1111", "lora-manager", "stability-matrix", "civitai", "text",  # side-cars
    "invokeai", "huggingface",  # applications
    "pulled", "pushed",  # where adapterhub itself got it, or put it
    "modelspec", "additional-networks", "kohya", "ai-toolkit", "diffusers",  # the header
    "guess",
)  # fmt: skip
OF_HEADER = ("modelspec", "additional-networks", "kohya", "ai-toolkit", "diffusers")
"""Those of the file itself."""
"""Whom to believe, the first most. An origin that is not among these is believed least."""
_COARSE = {"base_model": "a1111"}
"""Field and origin that knows only a few words for it: any other side-car is believed before, a header is not. A1111 has one
word, SDXL, for what Civitai calls Pony, Illustrious or NoobAI."""
_JOINED = frozenset({"tags"})
"""Lists that are joined. Tags are there to find a file by, so each counts, whoever gave it. Trigger words are there to be
written into a prompt: one list of them wins whole, for a person who took a word away does not want it back."""
_WHOLE = frozenset({"user"})
"""Origins whose list stands alone even where lists are joined: what the person removed stays removed."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What a file is taken to be: `origin` is the strongest that said it; `origins` has one for each entry of a list."""

    field: str
    value: Value
    origin: str
    origins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Facts about one field that cannot all be true, the most believed first."""

    field: str
    facts: tuple[Fact, ...]


def settled(facts: Iterable[Fact]) -> dict[str, Settled]:
    """The winning value of each field, in the order in which fields were first told."""
    return {field: _joined(told) if field in _JOINED else _first(told) for field, told in _by_field(facts).items()}


def disagreements(facts: Iterable[Fact]) -> list[Disagreement]:
    """Where side-cars and header say different things: base models of two architectures, trigger words of which neither
    list has the other within, hashes and ids that differ. What a person edited here is not compared, nor is a guess.
    """
    found = []
    for field, told in _by_field(fact for fact in facts if fact.origin not in ("user", "guess")).items():
        agree = _hashes_agree if field.startswith("hash.") else _AGREEING.get(field)
        if agree and any(not agree(one.value, other.value) for one in told for other in told):
            found.append(Disagreement(field, tuple(told)))
    return found


def contradictions(facts: Iterable[Fact], digests: Mapping[str, str | None]) -> list[Fact]:
    """Claimed hashes that the file does not have; `digests` by the names of `files.every_digest`, as far as known."""
    return [
        fact for fact in facts
        if fact.field.startswith("hash.") and (known := digests.get(fact.field.removeprefix("hash.")))
        and not _hashes_agree(fact.value, known)
    ]  # fmt: skip


def _by_field(facts: Iterable[Fact]) -> dict[str, list[Fact]]:
    told: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        told[fact.field].append(fact)
    for several in told.values():
        several.sort(key=rank)
    return told


def rank(fact: Fact) -> float:
    """The lower, the more the fact is believed."""
    if _COARSE.get(fact.field) == fact.origin:
        return _RANKS["text"] + 0.5
    return _RANKS.get(fact.origin, len(ORIGINS))


_RANKS = {origin: rank for rank, origin in enumerate(ORIGINS)}


def _first(told: list[Fact]) -> Settled:
    best = told[0]
    return Settled(best.field, best.value, best.origin, (best.origin,) * _count(best.value))


def _joined(told: list[Fact]) -> Settled:
    best = told[0]
    if best.origin in _WHOLE:
        return _first(told)
    owners: dict[str, str] = {}
    for fact in told:
        for entry in _entries(fact.value):
            owners.setdefault(entry.casefold(), fact.origin)
    entries = distinct(entry for fact in told for entry in _entries(fact.value))
    return Settled(best.field, entries, best.origin, tuple(owners[entry.casefold()] for entry in entries))


def _entries(value: Value) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else (str(value),)


def _count(value: Value) -> int:
    return len(value) if isinstance(value, tuple) else 1


def _equal(one: Value, other: Value) -> bool:
    return one == other


def _bases_agree(one: Value, other: Value) -> bool:
    """Names whose architecture is not known may be any."""
    names = {architecture(str(one)), architecture(str(other))}
    return None in names or len(names) == 1


def _words_agree(one: Value, other: Value) -> bool:
    these, those = ({word.casefold() for word in _entries(value)} for value in (one, other))
    return these <= those or those <= these


def _hashes_agree(one: Value, other: Value) -> bool:
    short, long = sorted((str(one).lower(), str(other).lower()), key=len)
    return long.startswith(short)


_AGREEING: Mapping[str, Callable[[Value, Value], bool]] = {
    "base_model": _bases_agree, "words": _words_agree, "civitai_model": _equal, "civitai_version": _equal,
}  # fmt: skip
