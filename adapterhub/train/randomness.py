"""Randomness as a function of seed, purpose and step: whatever is drawn at a step is drawn for the whole batch, on the CPU,
by every process alike. So a resumed run, accumulation, and several processes draw what one uninterrupted process would.
"""

from __future__ import annotations

import hashlib

import torch


def number(seed: int, purpose: str, step: int) -> int:
    """63 bits that are the same for the same arguments, everywhere."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """A generator of torch's that starts at `number`."""
    return torch.Generator("cpu").manual_seed(number(seed, purpose, step))
