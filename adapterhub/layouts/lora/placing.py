"""What every LoRA layout has: where it keeps alpha, Fit (how far it explains a file), and the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache, cached_property
from typing import Protocol

import adapterhub.architectures as architectures
from adapterhub.adapter import Adapter, Key, Kind, Module, Role
from adapterhub.algorithms import fits
from adapterhub.architectures import Architecture
from adapterhub.files import Package
from adapterhub.layouts.base import Encoded, Layout, Reading
from adapterhub.layouts.lora.spelled import Spelled
from adapterhub.tensors import LazyTensor


class AlphaPlace(StrEnum):
    """Where a layout keeps alpha."""

    TENSOR = "tensor"
    METADATA = "metadata"
    FOLDED = "folded"


@dataclass(frozen=True, eq=False)
class Fit:
    """How far `layout` explains a file of `architecture`.

    `files` maps each file to its heads' modules; `unplaced` are names that it cannot place; `misfits` are modules whose
    weight has another shape in the architecture; `mended` maps places to the code of the odd spelling that was read;
    `variant` is "inpainting" or the like where the input convolution shows it. `outline` is the fit of the one file's
    outline (see Spelled), which has found out, or will, all that names and shapes tell.
    """

    layout: LoraLayout
    architecture: str
    spelled: Mapping[str, Spelled]
    files: Mapping[str, Mapping[str, Module]]
    unplaced: tuple[str, ...] = ()
    misfits: tuple[Module, ...] = ()
    mended: Mapping[str, str] = field(default_factory=dict)
    variant: str | None = None
    outline: Fit | None = None

    def of(self, name: str, file: Spelled) -> Fit:
        """The fit of the file `name`, whose outline this is the fit of."""
        ((heads,), (outline,)) = self.files.values(), self.spelled.values()
        shared = self if outline is file.outline else None
        return replace(self, spelled={name: file}, files={name: heads}, outline=shared)

    @property
    def heads(self) -> int:
        """How many spellings of modules were placed."""
        return sum(len(heads) for heads in self.files.values())

    @cached_property
    def doubles(self) -> tuple[str, ...]:
        """Names of tensors whose module and role another tensor has already."""
        if self.outline:
            return self.outline.doubles
        twice = [name for spelled in self.spelled.values() for name in spelled.doubles]
        if self.heads == len({module for heads in self.files.values() for module in heads.values()}):
            return tuple(twice)
        taken: set[tuple[Module, Role]] = set()
        for file, heads in self.files.items():
            for head, module in heads.items():
                for role, name in self.spelled[file].heads[head].items():
                    if (module, role) in taken:
                        twice.append(name)
                    taken.add((module, role))
        return tuple(twice)

    @cached_property
    def bent(self) -> int:
        """How many projections have factors of another number of dimensions than their weight: SD 1 projects by 1×1
        convolutions where SD 2 has linear layers (rule 11 of formats/lora.md §5.2).
        """
        if self.outline:
            return self.outline.bent
        weights = architectures.get(self.architecture).weights
        return sum(
            len(down.shape) != len(weights[module.component][module.module])
            for file, heads in self.files.items()
            for head, module in heads.items()
            if module.module.endswith((".proj_in", ".proj_out"))
            and (down := self.spelled[file].roles(head).get(Role.DOWN)) is not None
        )

    @cached_property
    def evidence(self) -> tuple[str, ...]:
        """What an expert would look at: the first modules of each kind whose shape says which architecture it is."""
        if self.outline:
            return self.outline.evidence
        said = []
        for file, heads in self.files.items():
            extents = self.spelled[file].extents
            for head, module in heads.items():
                if (telling := _telling(module)) is not None and (width := extents[head][telling[0]]) is not None:
                    said.append(f"{telling[1]} {width}")
        return tuple(dict.fromkeys(said))[:6]


# (path ends in, axis of the extent, how to say it): rules 1, 2 and 10 of formats/lora.md §5.2.
_TELLING = (
    ("attn2.to_k", 1, "input width"),
    ("add_embedding.linear_1", 1, "input width"),
    ("conv_in", 1, "columns"),
    ("self_attn.q_proj", 1, "input width"),
)


@cache
def _telling(module: Module) -> tuple[int, str] | None:
    """The axis of a module's extent that tells something, and what to call that; asked about modules of inventories only."""
    for suffix, axis, words in _TELLING:
        if module.module.endswith(suffix):
            return axis, f"{suffix if module.component == 'unet' else f'{module.component} {suffix}'} {words}"
    return None


class LoraLayout(Layout, Protocol):
    """A bijection between the places of a file and component, module path and role."""

    @property
    def alpha(self) -> AlphaPlace:
        """Where it keeps alpha."""

    def explains(
        self, package: Package, spelled: Mapping[str, Spelled], architecture: Architecture, *, lenient: bool = False
    ) -> Fit | None:
        """How far this layout explains a package; None where it does not at all (or, unless `lenient`, not wholly)."""

    def decode(self, package: Package, fit: Fit) -> Reading:
        """The adapter in a package that `explains` found a fit for."""

    def roles(self, component: str) -> Mapping[Role, str]:
        """The roles that `component` has a place for, and how they are spelled."""

    def place(self, key: Key, architecture: str) -> str | None:
        """Where `key` is written; None where there is no place for it."""

    def encode(self, adapter: Adapter) -> Encoded:
        """The package that holds `adapter`, each of whose keys must have a place."""


def fit_of(
    layout: LoraLayout,
    architecture: Architecture,
    spelled: Mapping[str, Spelled],
    files: Mapping[str, Mapping[str, Module]],
    *,
    readable: frozenset[str] | None = None,
    codes: Mapping[str, str] | None = None,
) -> Fit:
    """The Fit of heads that have been looked up. `readable` are the suffixes allowed, `codes` the odd heads' codes."""
    misfits: list[Module] = []
    unplaced: list[str] = []
    mended: dict[str, str] = {}
    variant = None
    for file, heads in files.items():
        source = spelled[file]
        extents, lengths = source.extents, source.lengths
        unplaced += _unplaced(source, heads, readable)
        mended |= source.unwrapped
        for head, module in heads.items():
            weight = architecture.weights[module.component][module.module]
            if not fits(extents[head], weight) or lengths.get(head, weight[0]) not in weight[:2]:
                seen = _VARIANTS.get((module, extents[head][1] or 0))
                variant = seen or variant
                if seen is None:
                    misfits.append(module)
            if codes and head in codes:
                mended |= dict.fromkeys(source.heads[head].values(), codes[head])
    return Fit(layout, architecture.name, spelled, files, tuple(unplaced), tuple(misfits), mended, variant)


# Columns of a 3×3 input convolution over 9 or 8 channels: latents with mask and masked image, or with a second image.
_CONV_IN = Module("unet", "conv_in")
_VARIANTS = {(_CONV_IN, 81): "inpainting", (_CONV_IN, 72): "instruct-pix2pix"}


def _unplaced(spelled: Spelled, heads: Mapping[str, Module], readable: frozenset[str] | None) -> list[str]:
    names = list(spelled.unsplit)
    for head, roles in spelled.heads.items():
        if head not in heads:
            names += roles.values()
    if readable is not None and not spelled.suffixes <= readable:
        names += [
            name for head in heads for name in spelled.heads[head].values() if spelled.suffix_of[name] not in readable
        ]
    return names


def reading_of(kind: Kind, package: Package, fit: Fit, metadata: Mapping[str, str]) -> Reading:
    """Decodes by the heads that `fit` placed."""
    modules: dict[Module, dict[Role, LazyTensor]] = {}
    places: dict[Module, Mapping[Role, str]] = {}
    dropped = set(fit.unplaced)
    several = len(package.files) > 1
    for file, heads in fit.files.items():
        spelled = fit.spelled[file]
        tensors = spelled.tensors
        before = f"{file}:" if several else ""
        for head, module in heads.items():
            names = spelled.heads[head]
            roles = {role: tensors[name] for role, name in names.items()}
            if several or dropped or module in modules:
                names = {role: before + name for role, name in names.items() if name not in dropped}
                roles = {role: roles[role] for role in names} | modules.get(module, {})
                names |= places.get(module, {})
            modules[module], places[module] = roles, names
        for name, (component, path, role) in spelled.bundled.items():
            modules[Module(component, path)] = {role: tensors[name]}
            places[Module(component, path)] = {role: before + name}
    return Reading(kind, fit.architecture, modules, places, dict(metadata), fit.mended)
