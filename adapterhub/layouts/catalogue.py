"""The list of layouts, as `adapterhub layouts` prints it."""

from __future__ import annotations

import adapterhub.layouts as layouts
from adapterhub.adapter import Key, Role
from adapterhub.algorithms import ALGORITHMS
from adapterhub.documents import LayoutInfo
from adapterhub.layouts.base import Layout


def listed() -> list[LayoutInfo]:
    """One row a layout."""
    return [
        LayoutInfo(
            name=layout.name, kind=layout.kind, summary=layout.summary,
            container="directory" if layout.directory else "safetensors",
            suffix="" if layout.directory else ".safetensors", reads=True, writes=layout.writes,
            tools=[tool for tool, name in layouts.TOOLS.items() if name == layout.name],
            holds=_holds(layout), alpha=layout.alpha.value,
        )
        for layout in layouts.every()
    ]  # fmt: skip


def _holds(layout: Layout) -> list[str]:
    """The algorithms whose roles all have a place; `locon` where a convolution has one too."""
    roles = layout.roles("unet").keys()
    names = [row.name for row in ALGORITHMS if any(complete <= roles for complete in row.complete)]
    if layout.place(_CONVOLUTION, "sd1") is not None:
        names.insert(1, "locon")
    return names + ["dora"] * (Role.DORA_SCALE in roles)


_CONVOLUTION = Key("unet", "down_blocks.0.resnets.0.conv1", Role.UP)
