"""Identity: what a package is, as far as any layout can tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from adapterhub.adapter import Kind
from adapterhub.errors import UsageError
from adapterhub.files import Package
from adapterhub.layouts.base import Layout, Reading, Recognised, WholeLayout
from adapterhub.layouts.foreign import Foreign
from adapterhub.layouts.lora.placing import Fit
from adapterhub.layouts.lora.spelled import Spelled

# A file most of whose modules have other widths is a smaller model with the same names; fewer, and some are wrong.
_OTHER_WIDTHS = 0.5


@dataclass(frozen=True)
class Identity:
    """What a package is. A LoRA has a `fit`, the best explanation; an embedding or a hypernetwork is `whole`; what nothing
    explains has neither.

    `also` are the other architectures that the tensors fit as well, `mixed` those whose keys stand side by side in it.
    """

    kind: Kind
    fit: Fit | None = None
    whole: Recognised | None = None
    foreign: Foreign | None = None
    also: tuple[str, ...] = ()
    mixed: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    spelled: Mapping[str, Spelled] = field(default_factory=dict)

    @property
    def layout(self) -> Layout | None:
        """The layout that explains every key."""
        if self.whole is not None:
            return self.whole.layout
        return self.fit.layout if self.fit is not None and not self.mixed and not self.fit.unplaced else None

    @property
    def architecture(self) -> str | None:
        """The model family that it fits, if that is one."""
        found = self.whole or self.fit
        return None if found is None or self.mixed else found.architecture or None

    @property
    def other_widths(self) -> bool:
        """Whether the names fit and most widths do not: a distilled or tiny model."""
        return self.fit is not None and len(self.fit.misfits) > _OTHER_WIDTHS * self.fit.heads

    def decode(self, package: Package) -> Reading | None:
        """The adapter in the package; None where no layout explains it."""
        if self.whole is not None:
            decode = self.whole.decode or partial(self.whole.layout.decode, package)
            return replace(decode(), architecture=self.whole.architecture)
        return self.fit.layout.decode(package, self.fit) if self.fit is not None else None


def recognised(package: Package, layouts: Iterable[WholeLayout], architecture: str | None = None) -> Identity | None:
    """The identity of a small file, which one layout at most recognises; for `architecture`, if that is told."""
    for layout in layouts:
        if (found := layout.recognise(package)) is not None:
            if architecture is not None:
                found = _told(layout, found, architecture)
            return Identity(layout.kind, whole=found, also=found.also, evidence=found.evidence)
    return None


def _told(layout: WholeLayout, found: Recognised, architecture: str) -> Recognised:
    """What was recognised, for the architecture that the caller knows. UsageError where the weights of a model deny that."""
    if layout.kind is Kind.CHECKPOINT and architecture not in (found.architecture, *found.also):
        raise UsageError(f"the weights are those of {found.architecture}, and not of {architecture}",
                         mend="Leave out --architecture.")  # fmt: skip
    return replace(found, architecture=architecture, also=())
