"""What models look like, as data: `get("sdxl")` names every module of every component, and how other programs call it.

Adding an architecture is adding its files, none of which is code:

    NAME.toml          written by hand: title, what metadata calls it, the dialects that it is spelled in, its single-file prefixes
    configs/NAME.json  written by hand: the configuration of each component, as diffusers and transformers publish it
    NAME.json          generated from the configuration (`python -m adapterhub.architectures.generate`): the inventory
    dialects/*.toml    written by hand: how a dialect spells the blocks and leaves of a component

Called, the package lists them: `adapterhub.architectures()` is the Python API's name of the command.
"""

from __future__ import annotations

import sys
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from adapterhub.architectures import inventory
from adapterhub.architectures.architecture import Architecture, Part, Told
from adapterhub.architectures.dialect import Crossing, Dialect, Row, load
from adapterhub.errors import UnknownName

if TYPE_CHECKING:
    from adapterhub.documents import ArchitectureInfo

__all__ = ["NAMES", "Architecture", "Crossing", "Dialect", "Row", "get"]

NAMES: tuple[str, ...] = inventory.names()
"""Every architecture, in the order in which they are preferred where several fit a file equally well."""


@cache
def get(name: str) -> Architecture:
    """The architecture called `name`, read once. Raises UnknownName for a name that is not in NAMES."""
    if name not in NAMES:
        raise UnknownName("architecture", name, NAMES)
    facts = inventory.facts(name)
    dialects = {
        dialect: {component: load(*tables) for component, tables in components.items()}
        for dialect, components in facts["dialects"].items()
    }
    parts = {component: Part(**part) for component, part in facts["single_file"].items()}
    return Architecture(name, facts["title"], _told(facts["told"]), *inventory.modules(name), dialects, parts)


def _told(facts: dict[str, Any]) -> Told:
    return Told(
        tuple(facts["modelspec"]),
        facts["implementation"],
        tuple(facts["base_model_version"]),
        facts["v2"],
        tuple(facts["hub"]),
    )


class _Listed(ModuleType):
    def __call__(self) -> list[ArchitectureInfo]:
        from adapterhub.architectures.catalogue import listed

        return listed()


sys.modules[__name__].__class__ = _Listed
