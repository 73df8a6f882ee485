"""What every layout has: Reading (decoded), Encoded (to be written), and the protocols.

The layouts of LoRAs go further, module by module: `lora/placing.py`. Embeddings and hypernetworks are small files that are
recognised as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from adapterhub.adapter import Adapter, Key, Kind, Module, Role
from adapterhub.files import Package
from adapterhub.tensors import LazyTensor


@dataclass
class Reading:
    """A decoded file: `modules` with their tensors by role, and `names`, the place of each of them in the file.

    What a layout reads out of metadata has a tensor here and no name.
    """

    kind: Kind
    architecture: str
    modules: dict[Module, dict[Role, LazyTensor]]
    names: Mapping[Module, Mapping[Role, str]]
    metadata: dict[str, str]
    mended: Mapping[str, str]

    @cached_property
    def adapter(self) -> Adapter:
        """What was decoded, once that is complete."""
        tensors = {
            Key(*module, role): tensor for module, roles in self.modules.items() for role, tensor in roles.items()
        }
        return Adapter(self.kind, self.architecture, tensors, self.metadata)

    @cached_property
    def places(self) -> dict[Key, str]:
        """Where each key's tensor lies in the file."""
        return {Key(*module, role): name for module, names in self.names.items() for role, name in names.items()}


@dataclass(frozen=True)
class Encoded:
    """A package to be written, and where in it each key goes: a tensor's name, a metadata field, or None."""

    package: Package
    places: Mapping[Key, str | None]

    def stores(self, place: str) -> bool:
        """Whether a place is a tensor of the package, and no metadata or config."""
        if len(self.package.files) == 1 and place in self.package.only.tensors:
            return True
        file, _, name = place.partition(":")
        return file in self.package.files and name in self.package.files[file].tensors


class Layout(Protocol):
    """A bijection between the places of a file and the keys of an adapter."""

    @property
    def name(self) -> str:
        """What --to takes, one for each layout of a kind."""

    @property
    def kind(self) -> Kind:
        """What its files are for."""

    @property
    def summary(self) -> str:
        """What it is, in a line."""

    @property
    def writes(self) -> bool:
        """Whether it is written at all."""

    @property
    def containers(self) -> Mapping[str, str]:
        """The suffixes of the files that it is written as, the usual one first, and the container of each."""


@dataclass(frozen=True)
class Form:
    """How a small file is to be written: the `container`, the `stem` of its name (empty for the usual one), and the picture
    that it goes onto.
    """

    container: str
    stem: str
    cover: Path | None = None


class WholeLayout(Layout, Protocol):
    """A layout of small files, each recognised as a whole."""

    def recognise(self, package: Package) -> Recognised | None:
        """What a package is; None where it is not in this layout."""

    def decode(self, package: Package) -> Reading:
        """The adapter in a package that was recognised."""

    def place(self, key: Key, adapter: Adapter) -> str | None:
        """Where `key` of `adapter` is written; None where there is no place for it."""

    def encode(self, adapter: Adapter, form: Form) -> Encoded:
        """The package that holds `adapter`, each of whose keys must have a place."""


@dataclass(frozen=True)
class Recognised:
    """A file in `layout`. `architecture` is empty where its widths are no known model's; `also` are others that fit. `decode`
    reads it, where recognising it was most of the work.
    """

    layout: WholeLayout
    architecture: str
    also: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    variant: str | None = None
    decode: Callable[[], Reading] | None = None
