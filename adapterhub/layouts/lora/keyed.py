"""The table engine: a layout whose keys are prefix + module path + suffix, declared as rows and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache

import adapterhub.architectures as architectures
from adapterhub.adapter import Adapter, Key, Kind, Module, Role
from adapterhub.architectures import Architecture
from adapterhub.files import SAFETENSORS, File, Package
from adapterhub.layouts.base import Encoded, Reading
from adapterhub.layouts.lora.placing import AlphaPlace, Fit, fit_of, reading_of
from adapterhub.layouts.lora.spelled import BUNDLE, Spelled
from adapterhub.layouts.lora.suffixes import READ_ONLY
from adapterhub.tensors import LazyTensor

ORDINARY = frozenset({"no-unet-prefix", "first-generation"})
"""Codes of variants that their tools wrote as a matter of course, beside the spelling that is written here."""

Spelling = Callable[[str, str], str | None]
"""(component, module path in the layout's dialect) → how the layout writes it; None where it has no place for it."""

Prefixes = Mapping[str, Mapping[str, str]]
"""architecture → component → prefix."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A spelling that is read and never written; `code` says in reports which it was."""

    code: str
    prefixes: Prefixes | None = None
    dialects: Mapping[str, str] | None = None
    spelling: Spelling | None = None

    @property
    def ordinary(self) -> bool:
        """Whether it is as good as the layout's own: nothing about it is worth a word."""
        return self.code in ORDINARY


@dataclass(frozen=True, kw_only=True)
class KeyedLayout:
    """One row of the layout table. `prefixes`, `dialects` (of the UNet; "diffusers" unless told) and `suffixes` give the
    bijection in the direction canonical → spelled; everything else about reading follows from it.
    """

    name: str
    kind: Kind = Kind.LORA
    summary: str
    file_name: str = "pytorch_lora_weights.safetensors"
    prefixes: Prefixes
    dialects: Mapping[str, str] = field(default_factory=dict)
    separator: str = "."
    suffixes: Mapping[Role, str]
    component_suffixes: Mapping[str, Mapping[Role, str]] = field(default_factory=dict)
    also_read: frozenset[str] = frozenset()
    spelling: Spelling | None = None
    variants: tuple[Variant, ...] = ()
    alpha: AlphaPlace = AlphaPlace.TENSOR
    read_metadata: Callable[[Reading], None] | None = None
    write_metadata: Callable[[Adapter, dict[str, str]], None] | None = None
    metadata_field: str | None = None
    written: Callable[[Key, LazyTensor], LazyTensor] | None = None
    bundles: bool = False
    containers: Mapping[str, str] = field(default_factory=lambda: {".safetensors": SAFETENSORS})
    writes: bool = True

    def __hash__(self) -> int:
        return hash(self.name)

    def table(self, architecture: str) -> Mapping[str, Module]:
        """Every head that this layout writes for `architecture`, and the module that it means."""
        return _table(self, architecture)

    def roles(self, component: str) -> Mapping[Role, str]:
        """The suffix of each role that `component` has a place for."""
        return self.component_suffixes.get(component, self.suffixes)

    def readable(self) -> frozenset[str]:
        """Every suffix that this layout reads, without the dot in front."""
        return _readable(self)

    def explains(self, package: Package, spelled: Mapping[str, Spelled], architecture: Architecture,
                 *, lenient: bool = False) -> Fit | None:  # fmt: skip
        """How far this layout explains the file; `lenient` also looks at the spellings that are only read."""
        if len(spelled) != 1 or architecture.name not in self.prefixes:
            return None
        ((name, file),) = spelled.items()
        if not lenient:
            outline = _explained(self, architecture, file.outline) if file.outline else _whole(self, architecture, file)
            return outline and outline.of(name, file)
        if not file.heads:
            return None
        table = _read(self, architecture.name)
        odd = _variants(self, architecture.name)
        heads = {head: table.get(head) or odd[head][0] for head in file.heads if head in table or head in odd}
        if not heads:
            return None
        codes = {head: odd[head][1] for head in heads if head not in table}
        return fit_of(self, architecture, spelled, {name: heads}, readable=self.readable(), codes=codes)

    def decode(self, package: Package, fit: Fit) -> Reading:
        """The adapter that `fit` found, and which place each of its tensors came from."""
        reading = reading_of(self.kind, package, fit, package.only.metadata)
        if self.read_metadata:
            self.read_metadata(reading)
        return reading

    def place(self, key: Key, architecture: str) -> str | None:
        """The name under which `key` is written; None where the layout has no place for it."""
        if key.role is Role.VECTORS:
            return BUNDLE + key.module if self.bundles else None
        suffix = self.roles(key.component).get(key.role)
        head = _inverse(self, architecture).get(Module(key.component, key.module))
        return None if suffix is None or head is None else head + suffix

    def encode(self, adapter: Adapter) -> Encoded:
        """The file that holds `adapter`. Every key must have a place: ask `place` first."""
        places = {key: self.place(key, adapter.architecture) for key in adapter.tensors}
        metadata = dict(adapter.metadata)
        if self.write_metadata:
            self.write_metadata(adapter, metadata)
        shape = self.written or (lambda key, tensor: tensor)
        tensors = {place: shape(key, adapter.tensors[key]) for key, place in places.items() if place is not None}
        package = Package.new({self.file_name: File(tensors, metadata)})
        return Encoded(package, {key: place or self.metadata_field for key, place in places.items()})


def flat(path: str) -> str:
    """A dotted path as Kohya's trainers flatten it."""
    return path.replace(".", "_")


def _heads(layout: KeyedLayout, architecture: str, variant: Variant | None = None) -> Iterator[tuple[str, Module]]:
    """(head, module) of every module of `architecture` that has a place, in the layout's or a variant's spelling."""
    prefixes = (variant and variant.prefixes) or layout.prefixes
    dialects = (variant and variant.dialects) or layout.dialects
    spelling = variant.spelling if variant and variant.spelling else layout.spelling
    model = architectures.get(architecture)
    for component, prefix in prefixes.get(architecture, {}).items():
        dialect = dialects.get(architecture, "diffusers") if component == "unet" else "diffusers"
        for module, path in model.module_names(component, dialect).items():
            spelled = path if spelling is None else spelling(component, path)
            if spelled is not None:
                yield prefix + (flat(spelled) if layout.separator == "_" else spelled), Module(component, module)


def _whole(layout: KeyedLayout, architecture: Architecture, file: Spelled) -> Fit | None:
    """The fit of a file all of whose names are the layout's own; None for another, mostly without a look at the modules."""
    if file.unsplit or not file.suffixes <= layout.readable():
        return None
    prefixes = _prefixes(layout, architecture.name)
    if not all(head.startswith(prefixes) for head in file.heads):
        return None
    table = _read(layout, architecture.name)
    if not file.heads.keys() <= table.keys():
        return None
    return fit_of(layout, architecture, {"": file}, {"": {head: table[head] for head in file.heads}})


@lru_cache(maxsize=512)  # some outlines by all layouts and architectures
def _explained(layout: KeyedLayout, architecture: Architecture, outline: Spelled) -> Fit | None:
    """`_whole` of tensors without bytes, which many files share."""
    return _whole(layout, architecture, outline)


@cache
def _table(layout: KeyedLayout, architecture: str) -> dict[str, Module]:
    return dict(_heads(layout, architecture))


@cache
def _prefixes(layout: KeyedLayout, architecture: str) -> tuple[str, ...]:
    """What every head of `_read` begins with, one or the other."""
    others = (variant.prefixes for variant in layout.variants if variant.ordinary and variant.prefixes is not None)
    return tuple({prefix for table in (layout.prefixes, *others) for prefix in table.get(architecture, {}).values()})


@cache
def _read(layout: KeyedLayout, architecture: str) -> dict[str, Module]:
    """The table, and the variants that are ordinary."""
    others = (dict(_heads(layout, architecture, variant)) for variant in layout.variants if variant.ordinary)
    table = layout.table(architecture)
    return {**{head: module for other in others for head, module in other.items()}, **table}


@cache
def _inverse(layout: KeyedLayout, architecture: str) -> dict[Module, str]:
    return {module: head for head, module in layout.table(architecture).items()}


@cache
def _variants(layout: KeyedLayout, architecture: str) -> dict[str, tuple[Module, str]]:
    """Spellings that are only read: the first variant that spells a head keeps it."""
    table: dict[str, tuple[Module, str]] = {}
    for variant in (variant for variant in layout.variants if not variant.ordinary):
        for head, module in _heads(layout, architecture, variant):
            table.setdefault(head, (module, variant.code))
    return table


@cache
def _readable(layout: KeyedLayout) -> frozenset[str]:
    tables = (layout.suffixes, *layout.component_suffixes.values())
    written = {suffix for table in tables for suffix in table.values()}
    return frozenset(suffix[1:] for suffix in {*written, *layout.also_read, *READ_ONLY})
