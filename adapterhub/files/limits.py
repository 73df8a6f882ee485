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
    tensors: int = 50_000
    """The largest models have some thousands; a file of so many is looked at in two seconds."""
    rank: int = 16
    """Axes of one tensor."""
    metadata: int = 16_000_000
    """Characters of all metadata together."""
    document: int = 16_000_000
    """Bytes of a JSON file beside the weights, shard indexes included."""
    document_values: int = 500_000
    """Values in such a file; a shard index has one for each tensor."""
    shards: int = 256
    """Files of one model; those of language models that images are made with have some tens."""
    opcodes: int = 1_000_000
    """Opcodes of one pickle; a tensor takes some 35."""
    pickle: int = 64 << 20
    """Bytes of one pickle without its storages: `data.pkl`, or what stands before the storages of a legacy file."""
    pickle_memory: int = 128 << 20
    """Bytes, estimated from above, that everything which a pickle makes may take."""
    stack: int = 100_000
    """Values that a pickle may have on its stack."""
    integer: int = 32
    """Bytes of one integer in a pickle."""
    depth: int = 64
    """Containers in containers, in what a pickle makes."""
    nodes: int = 1_000_000
    """Values in the tree that a pickle makes, each counted wherever it is used."""
    keys: int = 16_384
    """Keys of dictionaries and members of sets that are no text: their hashes can be made to collide."""
    records: int = 100_000
    """Members of a zip archive."""
    pixels: int = 64_000_000
    """Pixels of a picture."""
    decoded: int = 12_000_000
    """Pixels of a picture that is decoded to look for strips, which takes up to 20 bytes for each."""
    payload: int = 32_000_000
    """Bytes of the JSON inside a picture; a fourth of them where it is not ASCII."""


LIMITS = Limits()
ZIP_RATIO = 100
"""How many times its stored bytes a member of a zip archive may hold, above ZIP_FREE."""
ZIP_FREE = 1 << 20
"""Bytes that a member may inflate to whatever its ratio."""
EXPANSION, FREE_ELEMENTS = 16, 65_536
"""How many times the elements of its storage a tensor may have, by strides that repeat them; and what is always free."""
LONG_NAME = 1024
"""Characters of a tensor name above which reading warns."""
