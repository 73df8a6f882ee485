"""Dialect: how a program spells the modules of a component, as tables: longest prefix, then exact leaf."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

FOLDER = Path(__file__).parent / "dialects"

Crossing = Literal["same", "stacked", "transposed", "reshaped"]
"""How values get from our tensors to a checkpoint's: as they are; one above the other; rows for columns; or the same
bytes under another shape, a linear layer (O, I) being a 1×1 convolution (O, I, 1, 1) there."""


class Row(NamedTuple):
    """The tensor at `place` of a checkpoint, and the `tensors` of ours that it consists of (`component.module.weight`)."""

    place: str
    tensors: tuple[str, ...]
    crossing: Crossing


@dataclass(frozen=True, eq=False)
class Dialect:
    """The tables of a dialect; one without rows is the identity.

    `prefixes` rename blocks, `leaves` what remains of a path behind its longest prefix (the whole path where it has none).
    The rest is for whole checkpoints, by the dialect's own leaf: `stacked` lists the modules whose rows one tensor holds,
    `crossings` tells tensors that are not the same, `tensors` renames those that are not called module.weight or .bias.
    """

    prefixes: Mapping[str, str] = field(default_factory=dict)
    leaves: Mapping[str, str] = field(default_factory=dict)
    stacked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    crossings: Mapping[str, Crossing] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)

    def module(self, path: str) -> str:
        """What the module at `path` is called."""
        block, leaf = self._split(path)
        return _join(self.prefixes.get(block, ""), self.leaves.get(leaf, leaf))

    def row(self, path: str, kind: str, *, inner: str, outer: str) -> Row:
        """Where the weight or bias (`kind`) of the module at `path` is kept; `inner` and `outer` go before its names."""
        block, leaf = self._split(path)
        spelled = self.leaves.get(leaf, leaf)
        tensor = f"{spelled}.{kind}"
        place = outer + _join(self.prefixes.get(block, ""), self.tensors.get(tensor, tensor))
        if spelled in self.stacked:
            parts = tuple(f"{inner}{_join(block, part)}.{kind}" for part in self.stacked[spelled])
            return Row(place, parts, "stacked")
        return Row(place, (f"{inner}{path}.{kind}",), self.crossings.get(tensor, "same"))

    def _split(self, path: str) -> tuple[str, str]:
        block = path.rpartition(".")[0]
        while block and block not in self.prefixes:
            block = block.rpartition(".")[0]
        return block, path[len(block) + 1 :] if block else path


DIFFUSERS = Dialect()
"""The canonical names themselves."""


@cache
def load(*names: str) -> Dialect:
    """The dialect that the tables called `names` make up together, later rows replacing earlier ones."""
    tables = [tomllib.loads((FOLDER / f"{name}.toml").read_text("utf-8")) for name in names]

    def merged(table: str) -> dict[str, Any]:
        return {name: row for found in tables for name, row in found.get(table, {}).items()}

    stacked = {whole: tuple(parts) for whole, parts in merged("stacked").items()}
    leaves = merged("leaves") | {part: whole for whole, parts in stacked.items() for part in parts}
    return Dialect(merged("prefixes"), leaves, stacked, merged("crossings"), merged("tensors"))


def _join(block: str, leaf: str) -> str:
    return f"{block}.{leaf}" if block else leaf
