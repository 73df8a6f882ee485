"""What a file may cost before anything is taken from it. Each can be raised for one run: `Limits(header=100 << 20)`."""

from __future__ import annotations

from dataclasses import dataclass

FORMAT_HEADER_BYTES = 100_000_000
"""The largest header that safetensors itself allows (`MAX_HEADER_SIZE`)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes, counts and lengths; the rules behind them stand in each refusal."""

    header: int = 16 << 20
    """Bytes of a safetensors header, up to FORMAT_HEADER_BYTES."""
    tensors: int = 200_000
    rank: int = 16
    """Axes of one tensor."""
    metadata: int = 16_000_000
    """Characters of all metadata together."""
    document: int = 16_000_000
    """Bytes of a JSON file beside the weights, shard indexes included."""


LIMITS = Limits()
LONG_NAME = 1024
"""Characters of a tensor name above which reading warns."""
