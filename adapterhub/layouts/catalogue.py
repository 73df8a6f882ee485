"""The list of layouts, as `adapterhub layouts` prints it."""

from __future__ import annotations

from typing import Any, cast

import adapterhub.layouts as layouts
from adapterhub.adapter import Key, Kind, Role
from adapterhub.algorithms import ALGORITHMS
from adapterhub.documents import Container, LayoutInfo
from adapterhub.layouts.base import Layout
from adapterhub.layouts.lora.placing import LoraLayout


def listed() -> list[LayoutInfo]:
    """One row a layout."""
    return [
        LayoutInfo(
            name=layout.name, kind=layout.kind, summary=layout.summary,
            container=cast("Container | None", next(iter(layout.containers.values()), None)),
            suffix=next(iter(layout.containers), ""), reads=True, writes=layout.writes,
            tools=[tool for tool, names in layouts.TOOLS[layout.kind].items() if layout.name in names],
            **_of_lora(layout),
        )
        for layout in layouts.every()
    ]  # fmt: skip


def _of_lora(layout: Layout) -> dict[str, Any]:
    if layout.kind is not Kind.LORA:
        return {}
    lora = cast(LoraLayout, layout)
    return {"holds": _holds(lora), "alpha": lora.alpha.value}


def _holds(layout: LoraLayout) -> list[str]:
    """The algorithms whose roles all have a place; `locon` where a convolution has one too."""
    roles = layout.roles("unet").keys()
    names = [row.name for row in ALGORITHMS if any(complete <= roles for complete in row.complete)]
    if layout.place(_CONVOLUTION, "sd1") is not None:
        names.insert(1, "locon")
    return names + ["dora"] * (Role.DORA_SCALE in roles)


_CONVOLUTION = Key("unet", "down_blocks.0.resnets.0.conv1", Role.UP)
