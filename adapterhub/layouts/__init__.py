"""Layouts by kind: `lora/`, `embedding/`, `hypernetwork/`, one small file each. Whatever module there (or entry point of
`adapterhub.layouts`) has a LAYOUT is one.

Called, the package lists them: `adapterhub.layouts()` is the Python API's name of the command.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import TYPE_CHECKING, cast

from adapterhub.adapter import Kind
from adapterhub.errors import UnknownName
from adapterhub.files import Package
from adapterhub.layouts.base import Layout, WholeLayout
from adapterhub.layouts.identity import Identity, recognised
from adapterhub.layouts.lora.placing import LoraLayout

if TYPE_CHECKING:
    from adapterhub.documents import LayoutInfo

KINDS = (Kind.LORA, Kind.EMBEDDING, Kind.HYPERNETWORK)
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
    found += [layout for entry in entry_points(group="adapterhub.layouts") if (layout := entry.load()).kind in kinds]
    return tuple(sorted(found, key=lambda layout: (KINDS.index(layout.kind), layout.name)))


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
        raise UnknownName(f"layout for a file of kind {kind}:", name, tuple(by_name))
    return by_name[name]


def for_tool(tool: str, kind: Kind = Kind.LORA) -> tuple[Layout, ...]:
    """The layouts of `kind` that `tool` reads in full, the best first."""
    if tool not in TOOLS[kind]:
        raise UnknownName(f"tool for a file of kind {kind}:", tool, tuple(TOOLS[kind]))
    return tuple(get(name, kind) for name in TOOLS[kind][tool])


def identify(package: Package, *, architecture: str | None = None) -> Identity:
    """What a package is: kind, layout, architecture, and how sure that is."""
    from adapterhub.layouts.lora.identity import identify as among

    small = recognised(package, whole(Kind.EMBEDDING, Kind.HYPERNETWORK), architecture)
    if small is not None:
        return small
    found = among(package, lora(), architecture=architecture)
    if found.kind is Kind.CHECKPOINT and Kind.CHECKPOINT in KINDS:
        return recognised(package, whole(Kind.CHECKPOINT), architecture) or found
    return found


class _Listed(ModuleType):
    def __call__(self) -> list[LayoutInfo]:
        from adapterhub.layouts.catalogue import listed

        return listed()


sys.modules[__name__].__class__ = _Listed
