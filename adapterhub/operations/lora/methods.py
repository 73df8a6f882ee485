"""Ways to merge several changes of one weight, number by number, with the definitions of their papers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Method(NamedTuple):
    """`merge(changes, density, seed)` gives one tensor of several, each already times its weight; `density` is the paper's."""

    merge: Callable[[Sequence[Tensor], float, int], Tensor]
    density: float


def ties(changes: Sequence[Tensor], density: float, seed: int) -> Tensor:
    """Trim, elect sign, disjoint mean (Yadav et al., 2023: TIES-Merging, algorithm 1), within one tensor.

    Of each change the `density` largest numbers stay; the sign of every place is that of their sum; the result is the mean of
    those that stayed and have it. The paper's λ is a weight that all changes share. Draws nothing from `seed`.
    """
    trimmed = torch.stack([_largest(change, density) for change in changes])
    elected = trimmed.sum(0).sign()
    agreeing = (trimmed.sign() == elected) & (trimmed != 0)
    return (trimmed * agreeing).sum(0) / agreeing.sum(0).clamp(min=1)


def dare(changes: Sequence[Tensor], density: float, seed: int) -> Tensor:
    """Drop and rescale, then add (Yu et al., 2023: DARE with task arithmetic): each number stays with a probability of `density`,
    and is divided by it.
    """
    total = torch.zeros_like(changes[0])
    for number, change in enumerate(changes):
        generator = torch.Generator().manual_seed(seed * 1009 + number)
        kept = torch.rand(change.shape, generator=generator, dtype=torch.float64) < density
        total = total + kept * change / density
    return total


METHODS: Mapping[str, Method] = {"ties": Method(ties, 0.2), "dare": Method(dare, 0.1)}


def seed_of(seed: int, *names: str) -> int:
    """Another seed for each module."""
    text = "\0".join((str(seed), *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:5], "little")


def _largest(change: Tensor, density: float) -> Tensor:
    """The numbers of the largest magnitude; the others as zeros."""
    kept = max(1, round(density * change.numel()))
    places = change.abs().flatten().topk(kept).indices
    found = torch.zeros_like(change).flatten()
    found[places] = change.flatten()[places]
    return found.reshape(change.shape)
