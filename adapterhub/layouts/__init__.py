"""Layouts by kind: `lora/`, `embedding/`, `hypernetwork/`, one small file each. Whatever module there (or entry point of
`adapterhub.layouts`) has a LAYOUT is one.

Called, the package lists them: `adapterhub.layouts()` is the Python API's name of the command.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import TYPE_CHECKING, cast

from adapterhub.adapter import Kind
from adapterhub.errors import AdapterhubError, NotAnAdapter, UnknownName
from adapterhub.files import Package
from adapterhub.layouts.base import Layout, WholeLayout
from adapterhub.layouts.identity import Identity, recognised
from adapterhub.layouts.lora.placing import LoraLayout

if TYPE_CHECKING:
    from adapterhub.documents import LayoutInfo

KINDS = (Kind.LORA, Kind.EMBEDDING, Kind.HYPERNETWORK, Kind.CHECKPOINT)
"""The kinds that have layouts, each a package here."""

TOOLS: Mapping[Kind, Mapping[str, tuple[str, ...]]] = {
    Kind.LORA: {
        "a1111": ("kohya",), "forge": ("kohya",), "kohya": ("kohya",), "invokeai": ("kohya",),
        "comfyui": ("comfyui",), "diffusers": ("diffusers",), "peft": ("peft",),
    },
    Kind.EMBEDDING: {
        "a1111": ("a1111", "a1111-image", "kohya"), "forge": ("a1111", "a1111-image", "kohya"), "kohya": ("kohya",), "invokeai": ("kohya",),
        "comfyui": ("kohya",), "diffusers": ("diffusers",),
    },
    Kind.HYPERNETWORK: {"a1111": ("a1111",), "comfyui": ("a1111",)},
    Kind.CHECKPOINT: {
        "a1111": ("single-file",), "forge": ("single-file",), "kohya": ("single-file",), "comfyui": ("single-file",),
        "invokeai": ("single-file", "diffusers"), "diffusers": ("diffusers",),
    },
}  # fmt: skip
"""Who will read the result → the layouts that it reads in full, the best first (`--for`)."""


@cache
def every(kind: Kind | None = None) -> tuple[Layout, ...]:
    """All layouts (of `kind`) by kind and name: those of this package, then those of others."""
    kinds = KINDS if kind is None else (kind,)
    found = [layout for one in kinds for layout in _here(one)]
    found += [layout for layout in _elsewhere() if layout.kind in kinds]
    return tuple(sorted(found, key=lambda layout: (KINDS.index(layout.kind), layout.name)))


@cache
def _elsewhere() -> tuple[Layout, ...]:
    """Those of other packages, all of whose metadata is read for them."""
    return tuple(entry.load() for entry in entry_points(group="adapterhub.layouts"))


def _here(kind: Kind) -> Iterator[Layout]:
    package = importlib.import_module(f"{__name__}.{kind}")
    for found in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        if hasattr(module, "LAYOUT"):
            yield module.LAYOUT


def lora() -> tuple[LoraLayout, ...]:
    """The layouts of the LoRA family."""
    return cast(tuple[LoraLayout, ...], every(Kind.LORA))


def whole(*kinds: Kind) -> tuple[WholeLayout, ...]:
    """The layouts of `kinds` whose files are recognised as a whole."""
    return cast(tuple[WholeLayout, ...], tuple(layout for kind in kinds for layout in every(kind)))


def get(name: str, kind: Kind = Kind.LORA) -> Layout:
    """The layout of `kind` called `name`."""
    by_name = {layout.name: layout for layout in every(kind)}
    if name not in by_name:
        raise _unknown("layout", name, by_name, kind, {layout.name for layout in every()})
    return by_name[name]


def for_tool(tool: str, kind: Kind = Kind.LORA) -> tuple[Layout, ...]:
    """The layouts of `kind` that `tool` reads in full, the best first."""
    if tool not in TOOLS[kind]:
        raise _unknown("tool", tool, TOOLS[kind], kind, {name for tools in TOOLS.values() for name in tools})
    return tuple(get(name, kind) for name in TOOLS[kind][tool])


def _unknown(what: str, name: str, known: Iterable[str], kind: Kind, others: Collection[str]) -> AdapterhubError:
    """A name of nothing is a slip; one for files of another kind says that the file is not what was meant."""
    if name in others:
        return NotAnAdapter(f"the file is of kind {kind}, and the {what} {name} is not for such",
                            mend=f"For this kind: {', '.join(known)}.")  # fmt: skip
    return UnknownName(what, name, tuple(known))


def identify(package: Package, *, architecture: str | None = None) -> Identity:
    """What a package is: kind, layout, architecture, and how sure that is."""
    from adapterhub.layouts.lora.identity import identify as among

    found = recognised(package, whole(*KINDS[1:]), architecture)  # a few look-ups for what is none of these
    return found or among(package, lora(), architecture=architecture)


class _Listed(ModuleType):
    def __call__(self) -> list[LayoutInfo]:
        from adapterhub.layouts.catalogue import listed

        return listed()


sys.modules[__name__].__class__ = _Listed
