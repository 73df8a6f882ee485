"""The ledger: what became of every source tensor. Steps report what they replace; the rest was copied or renamed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from adapterhub.adapter import Key
from adapterhub.documents import Action, LedgerEntry
from adapterhub.layouts.base import Encoded

# From the least to the most that can happen to a tensor: an entry shows the most.
_ACTIONS: tuple[Action, ...] = (
    "copy", "rename", "metadata", "reshape", "split", "join", "fold", "cast", "compute", "drop",
)  # fmt: skip


@dataclass
class _Fate:
    sources: list[Key]
    now: set[Key]
    action: Action | None = None
    reason: str | None = None


@dataclass
class Ledger:
    """One fate for each source key; keys that a step turns into something together share theirs."""

    places: Mapping[Key, str]
    _fates: dict[Key, _Fate] = field(init=False)  # by the key in the source
    _at: dict[Key, _Fate] = field(init=False)  # by the key as it is now

    def __post_init__(self) -> None:
        self._fates = {key: _Fate([key], {key}) for key in self.places}
        self._at = dict(self._fates)

    def take_in(self, places: Mapping[Key, str]) -> None:
        """Takes in tensors of another file by the keys that they have now, which nothing else has any more."""
        added = {key._replace(component=f"{place}:{key.component}"): place for key, place in places.items()}
        self.places = {**self.places, **added}
        for key, source in zip(places, added, strict=True):
            self._fates[source] = self._at[key] = _Fate([source], {key})

    def replace(self, before: Iterable[Key], after: Iterable[Key], action: Action, reason: str | None = None) -> None:
        """`before` (as they are called now) became `after` together."""
        gone, came = dict.fromkeys(before), set(after)  # sources are listed in the order in which they are given
        together = list({id(fate): fate for key in gone if (fate := self._at.get(key)) is not None}.values())
        if not together:
            return
        merged = _Fate(
            [key for fate in together for key in fate.sources],
            set().union(*(fate.now for fate in together)) - gone.keys() | came,
            max((action, *(fate.action for fate in together if fate.action)), key=_ACTIONS.index),
            reason or next((fate.reason for fate in together if fate.reason), None),
        )
        for key in gone:
            self._at.pop(key, None)
        self._at |= dict.fromkeys(merged.now, merged)
        self._fates |= dict.fromkeys(merged.sources, merged)

    def entries(self, encoded: Encoded) -> list[LedgerEntry]:
        """Every source tensor in one entry."""
        fates = {id(fate): fate for fate in self._fates.values()}.values()
        return [_entry(fate, self.places, encoded) for fate in fates]


def _entry(fate: _Fate, places: Mapping[Key, str], encoded: Encoded) -> LedgerEntry:
    source = list(dict.fromkeys(places[key] for key in fate.sources))
    found = (encoded.places.get(key) for key in sorted(fate.now))
    target = list(dict.fromkeys(place for place in found if place is not None))
    moved: Action = "copy" if source == target else "rename"
    action = moved if fate.action in (None, "copy") else fate.action
    if action in ("copy", "rename") and not any(map(encoded.stores, target)):
        action = "metadata"
    return LedgerEntry(source=source, target=target, action=action, reason=fate.reason)


def summary(entries: Iterable[LedgerEntry]) -> dict[Action, int]:
    """Source tensors by action, every action named."""
    counted: dict[Action, int] = dict.fromkeys(
        ("copy", "rename", "reshape", "fold", "split", "join", "cast", "compute", "metadata", "drop"), 0
    )
    for entry in entries:
        counted[entry.action] += len(entry.source)
    return counted
