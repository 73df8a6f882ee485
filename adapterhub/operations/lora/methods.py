"""Ways to merge several changes of one weight, number by number, with the definitions of their papers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Method(NamedTuple):
    """`merge(changes, kept, seed)` gives one tensor of several, each already times its weight.

    `kept` says for each what stays of it: a share of its numbers, the paper's `density`, or where the method `trims` the
    magnitude from which on the numbers are among that share of all that the adapter changes.
    """

    merge: Callable[[Sequence[Tensor], Sequence[float], int], Tensor]
    density: float
    trims: bool


def ties(changes: Sequence[Tensor], thresholds: Sequence[float], seed: int) -> Tensor:
    """Trim, elect sign, disjoint mean (Yadav et al., 2023: TIES-Merging, algorithm 1).

    Of each change the numbers stay that reach its threshold; the sign of every place is that of their sum; the result is the
    mean of those that stayed and have it. The paper's λ is a weight that all changes share. Draws nothing from `seed`.
    """
    trimmed = torch.stack([torch.where(change.abs() >= least, change, 0)
                           for change, least in zip(changes, thresholds, strict=True)])  # fmt: skip
    elected = trimmed.sum(0).sign()
    agreeing = (trimmed.sign() == elected) & (trimmed != 0)
    return (trimmed * agreeing).sum(0) / agreeing.sum(0).clamp(min=1)


def dare(changes: Sequence[Tensor], shares: Sequence[float], seed: int) -> Tensor:
    """Drop and rescale, then add (Yu et al., 2023: DARE with task arithmetic): each number stays with a probability of its share,
    and is divided by it.
    """
    total = torch.zeros_like(changes[0])
    for number, (change, share) in enumerate(zip(changes, shares, strict=True)):
        generator = torch.Generator().manual_seed(seed * 1009 + number)
        kept = torch.rand(change.shape, generator=generator, dtype=torch.float64) < share
        total = total + kept * change / share
    return total


METHODS: Mapping[str, Method] = {"ties": Method(ties, 0.2, trims=True), "dare": Method(dare, 0.1, trims=False)}


def seed_of(seed: int, *names: str) -> int:
    """Another seed for each module."""
    text = "\0".join((str(seed), *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:5], "little")
