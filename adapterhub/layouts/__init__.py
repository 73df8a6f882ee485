"""Layouts: one small file each. Whatever module here (or entry point of `adapterhub.layouts`) has a LAYOUT is one.

Called, the package lists them: `adapterhub.layouts()` is the Python API's name of the command.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import TYPE_CHECKING

from adapterhub.errors import UnknownName
from adapterhub.files import Package
from adapterhub.layouts.base import Layout
from adapterhub.layouts.identity import Identity

if TYPE_CHECKING:
    from adapterhub.documents import LayoutInfo

TOOLS = {
    "a1111": "kohya", "forge": "kohya", "kohya": "kohya", "invokeai": "kohya",
    "comfyui": "comfyui", "diffusers": "diffusers", "peft": "peft",
}  # fmt: skip
"""Who will read the result → the layout that it reads in full (`--for`)."""


@cache
def every() -> tuple[Layout, ...]:
    """All layouts by name: those of this package, then those of others."""
    here = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    found = [module.LAYOUT for module in here if hasattr(module, "LAYOUT")]
    found += [entry.load() for entry in entry_points(group="adapterhub.layouts")]
    return tuple(sorted(found, key=lambda layout: layout.name))


def get(name: str) -> Layout:
    """The layout called `name`."""
    by_name = {layout.name: layout for layout in every()}
    if name not in by_name:
        raise UnknownName("layout", name, tuple(by_name))
    return by_name[name]


def for_tool(tool: str) -> Layout:
    """The layout that `tool` reads in full."""
    if tool not in TOOLS:
        raise UnknownName("tool", tool, tuple(TOOLS))
    return get(TOOLS[tool])


def identify(package: Package, *, architecture: str | None = None) -> Identity:
    """What a package is: kind, layout, architecture, and how sure that is."""
    from adapterhub.layouts.identity import identify as among

    return among(package, every(), architecture=architecture)


class _Listed(ModuleType):
    def __call__(self) -> list[LayoutInfo]:
        from adapterhub.layouts.catalogue import listed

        return listed()


sys.modules[__name__].__class__ = _Listed
