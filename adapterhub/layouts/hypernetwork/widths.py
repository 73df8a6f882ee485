"""Whose contexts have which width: nothing else tells what a hypernetwork is for.

Widths are those of the keys' projections in the UNet's attentions, from the inventories.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

import adapterhub.architectures as architectures
from adapterhub.adapter import Module
from adapterhub.layouts.hypernetwork.structure import UNET

_KEYS = ".to_k"


@cache
def attentions(architecture: str) -> tuple[tuple[Module, int], ...]:
    """Every attention of the UNet, and the width of its contexts."""
    weights = architectures.get(architecture).weights[UNET]
    return tuple(
        (Module(UNET, path.removesuffix(_KEYS)), shape[1]) for path, shape in weights.items() if path.endswith(_KEYS)
    )


def widths_of(architecture: str) -> frozenset[int]:
    """The widths of all contexts."""
    return frozenset(width for _, width in attentions(architecture))


def architectures_of(widths: Collection[int]) -> tuple[str, ...]:
    """The architectures that have most of `widths`, none of them where no model has any.

    A1111 applies whatever width occurs and never asks what a file was made for, so that few widths fit several models.
    """
    lacking = {name: len(set(widths) - widths_of(name)) for name in architectures.NAMES}
    fewest = min(lacking.values())
    return tuple(name for name, count in lacking.items() if count == fewest < len(set(widths)))
