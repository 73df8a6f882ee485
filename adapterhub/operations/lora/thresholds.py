"""The magnitude that a share of all numbers of a task vector reaches, found without holding them: by counting."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

_AT_ONCE = 1 << 20
"""Numbers that are few enough to be sorted."""
_DIGIT = 16
"""Bits of float64 that one pass counts by; those of magnitudes are in the order of the numbers."""


def threshold(numbers: Callable[[], Iterable[Tensor]], share: float) -> float:
    """The least magnitude of the `share` of all `numbers` that is largest (one at least); they are asked for several times.

    Exact: the `k`-th largest, as TIES-Merging's authors take it (Yadav et al., 2023; their `topk_values_mask`).
    """
    total = sum(part.numel() for part in numbers())
    above, shift, prefix = max(1, round(share * total)), 64, 0
    while shift and total > _AT_ONCE:
        shift -= _DIGIT
        counts = sum((_counted(part, shift, prefix) for part in numbers()), torch.zeros(1 << _DIGIT, dtype=torch.int64))
        from_the_top = counts.flip(0).cumsum(0)
        place = int(torch.searchsorted(from_the_top, above))
        digit = len(counts) - 1 - place
        above -= int(from_the_top[place] - counts[digit])
        total = int(counts[digit])
        prefix = prefix << _DIGIT | digit
    left = torch.cat([_beginning(part, shift, prefix) for part in numbers()])
    return float(left.sort(descending=True).values[above - 1].view(torch.float64))


def _bits(part: Tensor) -> Tensor:
    return part.abs().flatten().to(torch.float64).view(torch.int64)


def _beginning(part: Tensor, shift: int, prefix: int) -> Tensor:
    """The bits of those numbers whose upper ones are `prefix`."""
    bits = _bits(part)
    return bits if shift == 64 else bits[bits >> shift == prefix]


def _counted(part: Tensor, shift: int, prefix: int) -> Tensor:
    """How many of those that begin with `prefix` have each digit next."""
    digits = _beginning(part, shift + _DIGIT, prefix) >> shift & (1 << _DIGIT) - 1
    return torch.bincount(digits, minlength=1 << _DIGIT)
