"""Whole models that were saved inside a wrapper of torch: they are looked at without it, and told by the names that they have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

from adapterhub.files import Package
from adapterhub.layouts.base import Reading
from adapterhub.layouts.checkpoint.aside import ASIDE
from adapterhub.layouts.checkpoint.scoring import Judged
from adapterhub.layouts.wrappers import any_wrapped, unwrapped


@dataclass(frozen=True)
class Bare:
    """A package without wrappers; `wrapped` leads from each place that had one to the place as it is, and `why` from there to
    the code of the wrapper.
    """

    package: Package
    wrapped: Mapping[str, str] = field(default_factory=dict)
    why: Mapping[str, str] = field(default_factory=dict)

    def stored(self, place: str) -> str:
        """The place in the file of what stands at `place` in here."""
        return self.wrapped.get(place, place)

    def told(self, reading: Reading) -> Reading:
        """What was read in here, by the names that it has in the file."""
        if not self.wrapped:
            return reading
        names = {
            module: {role: self.stored(place) for role, place in roles.items()}
            for module, roles in reading.names.items()
        }
        return replace(reading, names=names, mended=self.why)


def bare(package: Package) -> Bare:
    """A package without wrappers: itself where there are none. A name that stands there without one as well stays as it is."""
    if not any_wrapped(_names(package)):
        return Bare(package)
    made, wrapped, why, several = {}, {}, {}, len(package.files) > 1
    for file, content in package.files.items():
        start, tensors = f"{file}:" if several else "", {}
        for name, tensor in content.tensors.items():
            short, code = unwrapped(name)
            if code and short not in content.tensors and short not in tensors:
                wrapped[start + short], why[start + name] = start + name, code
                tensors[short] = tensor
            else:
                tensors[name] = tensor
        made[file] = replace(content, tensors=tensors)
    return Bare(replace(package, files=made), wrapped, why)


def judged(package: Package, judge: Callable[[Package], Judged | None]) -> tuple[Bare, Judged] | None:
    """What `judge` makes of a package, without wrappers where it then knows more of the weights."""
    found = judge(package)
    if any_wrapped(_names(package) if found is None else _left(found)):
        looked_at = bare(package)
        again = judge(looked_at.package)
        if again is not None and (found is None or again.score > found.score):
            return looked_at, again
    return None if found is None else (Bare(package), found)


def _names(package: Package) -> tuple[str, ...]:
    return tuple(chain.from_iterable(content.tensors for content in package.files.values()))


def _left(found: Judged) -> tuple[str, ...]:
    """The names that are no weights."""
    rest, places = found.placed.rest, found.placed.places
    if found.score.named == len(places):
        return tuple(rest)
    return (*rest, *(place.rpartition(":")[2] for held, place in places.items() if held.component == ASIDE))
