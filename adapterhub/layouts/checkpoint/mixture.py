"""Of which architecture each component of a single file is, where they are not all of one."""

from __future__ import annotations

from collections.abc import Mapping

import adapterhub.architectures as architectures
from adapterhub.layouts.checkpoint.aside import weights_of
from adapterhub.layouts.checkpoint.scoring import score
from adapterhub.layouts.checkpoint.single_file import as_whole
from adapterhub.tensors import LazyTensor


def mixture(tensors: Mapping[str, LazyTensor]) -> dict[str, list[str]]:
    """The architectures that explain each component the best, by the start of its names; nothing where one explains all."""
    heads = {part.prefix for name in architectures.NAMES for part in architectures.get(name).parts.values()}
    groups = {head: {name: held for name, held in tensors.items() if name.startswith(head)} for head in sorted(heads)}
    found = {head: explained for head, group in groups.items() if (explained := _explained(group))}
    return found if found and not set.intersection(*map(set, found.values())) else {}


def _explained(group: Mapping[str, LazyTensor]) -> list[str]:
    """The architectures that name the most of a component, and of these the ones that have the fewest names beside."""
    marks = {}
    for name in architectures.NAMES:
        placed = as_whole(group, name)
        parts = {held.component for held in placed.tensors}
        whole = sum(len(list(architectures.get(name).tensors(part))) for part in parts)
        marks[name] = (*score(placed, name), len(weights_of(placed.tensors)) - whole)
    best = max(marks.values())
    return [name for name, mark in marks.items() if mark == best and mark[0]]
