"""Where a family of side-cars has a fact: a table of rows, read and written by the same few functions.

A place is a path into JSON. `None` in it stands for that file of a list of files that is ours: the primary one, as
Civitai says it, or else the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapterhub.registry.facts.fact import Value, WrongType, tidy

Place = tuple[str | None, ...]


class NoPlace(ValueError):
    """A fact cannot be written where it belongs; the message says why."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a family spells a value: `read` gives what `tidy` takes; `write` is given the value, and what stood there."""

    read: Callable[[Any], Any]
    write: Callable[[Value, Any], Any]


def _same(found: Any) -> Any:
    return found


def _json(value: Value, old: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


PLAIN = Spelling(_same, _json)


@dataclass(frozen=True, slots=True)
class Row:
    """`field` is the first of `places` that says something, and is written into the first."""

    field: str
    places: tuple[Place, ...]
    spelling: Spelling = PLAIN

    def read(self, document: Any) -> Value | None:
        """The value that a document tells, or None. WrongType if that is of another sort."""
        for place in self.places:
            value = tidy(self.field, self.spelling.read(get(document, place)))
            if value is not None:
                return value
        return None

    def write(self, document: dict[str, Any], value: Value) -> None:
        """Puts `value` into `document`. NoPlace if it has no word for it, or something else is in the way."""
        *way, last = self.places[0]
        holder: Any = document
        for step in way:
            holder = _entered(holder, step)
        holder[last] = self.spelling.write(value, holder.get(last))


def row(field: str, *places: str, spelling: Spelling = PLAIN) -> Row:
    """A row whose places are written with dots: "civitai.files.*.name"."""
    split = tuple(tuple(None if step == "*" else step for step in place.split(".")) for place in places)
    return Row(field, split, spelling)


def hash_rows(holder: str, names: Mapping[str, str]) -> tuple[Row, ...]:
    """Rows for the hashes in the object at `holder`; `names` gives ours by the family's. Upper case, as Civitai's are."""
    return tuple(row(f"hash.{ours}", f"{holder}.{theirs}", spelling=UPPER) for theirs, ours in names.items())


def get(document: Any, place: Place) -> Any:
    """What stands at a place, or None."""
    for step in place:
        document = ours(document) if step is None else document.get(step) if isinstance(document, dict) else None
    return document


def ours(files: Any) -> Any:
    """That of a list of files which is primary, or the first."""
    if not isinstance(files, list):
        return None
    known = [file for file in files if isinstance(file, dict)]
    return next((file for file in known if file.get("primary") is True), known[0] if known else None)


def facts_of(document: Any, rows: Sequence[Row]) -> Iterator[tuple[str, Value | WrongType]]:
    """(field, value) of all that a document says; (field, WrongType) where it says it wrongly."""
    for entry in rows:
        try:
            value = entry.read(document)
        except WrongType as wrong:
            yield entry.field, wrong
        else:
            if value is not None:
                yield entry.field, value


def _entered(holder: Any, step: str | None) -> Any:
    """The object at `step`, made if nothing is there."""
    if step is None:
        file = ours(holder)
        if file is None:
            if holder:
                raise NoPlace("its list of files holds something else")
            file = {"primary": True}
            holder.append(file)
        return file
    if holder.get(step) is None:
        holder[step] = [] if step == "files" else {}
    if type(holder[step]) is not (list if step == "files" else dict):
        raise NoPlace(f"{step!r} holds something else")
    return holder[step]


UPPER = Spelling(_same, lambda value, old: str(value).upper())
