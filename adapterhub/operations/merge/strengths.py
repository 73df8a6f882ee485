"""How much of an adapter a module gets: its strength for UNet and text encoders, times the factor of its block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from adapterhub.adapter import Module
from adapterhub.errors import UsageError
from adapterhub.operations.merge.blocks import Blocks

Given = Path | str | tuple[Path | str, float] | tuple[Path | str, float, float]
"""A path at strength 1, or with one strength for all, or with one for the UNet and one for the text encoders."""


@dataclass(frozen=True)
class Part:
    """One adapter and its strengths."""

    path: Path
    unet: float = 1.0
    text: float = 1.0

    def negated(self) -> Part:
        return Part(self.path, -self.unet, -self.text)


def part(given: Given) -> Part:
    """What was given, as numbers. UsageError for strengths that are none."""
    path, *strengths = given if isinstance(given, tuple) else (given,)
    numbers = [float(strength) for strength in strengths]
    if not all(map(math.isfinite, numbers)):
        raise UsageError(f"{path}: a strength is a finite number")
    unet = numbers[0] if numbers else 1.0
    return Part(Path(path), unet, numbers[1] if len(numbers) > 1 else unet)


@dataclass(frozen=True)
class Selection:
    """Which modules are wanted, and how much of them; patterns are globs over `component.module`."""

    blocks: Blocks | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def strength(self, module: Module, part: Part) -> float:
        """0 where nothing of it is wanted."""
        path = ".".join(module)
        wanted = not self.include or any(fnmatchcase(path, pattern) for pattern in self.include)
        if not wanted or any(fnmatchcase(path, pattern) for pattern in self.exclude):
            return 0.0
        own = part.unet if module.component == "unet" else part.text
        return own * (self.blocks.factor(module) if self.blocks is not None else 1.0)
