"""Text encoders: the keys under which tools store vectors for them, the widths of their tokens, and whose encoders they are.

Source: ComfyUI `comfy/text_encoders/*` (its keys), OneTrainer `modelSaver/*/…EmbeddingSaver.py`, diffusers
`examples/advanced_diffusion_training` (`t5`); widths as the encoders' configurations publish them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

import adapterhub.architectures as architectures
from adapterhub.tensors import LazyTensor


class Encoder(NamedTuple):
    """`key` is what is written, `also` what is read; the `component` is called by its key where no architecture here has it."""

    key: str
    component: str
    width: int
    also: tuple[str, ...] = ()


ENCODERS = (
    Encoder("clip_l", "text_encoder", 768),
    Encoder("clip_h", "text_encoder", 1024),
    Encoder("clip_g", "text_encoder_2", 1280),
    Encoder("bert", "bert", 1280),
    Encoder("t5xxl", "text_encoder_3", 4096, ("t5",)),
    Encoder("pile_t5xl", "pile_t5xl", 2048),
    Encoder("umt5xxl", "umt5xxl", 4096),
    Encoder("llama", "llama", 4096),
    Encoder("gemma2_2b", "gemma2_2b", 2304),
    Encoder("qwen25_7b", "qwen25_7b", 3584),
)
BY_KEY: Mapping[str, Encoder] = MappingProxyType({key: row for row in ENCODERS for key in (row.key, *row.also)})
BY_WIDTH: Mapping[int, Encoder] = MappingProxyType({row.width: row for row in reversed(ENCODERS)})
"""The first of each width: what vectors are for whose file does not say."""


def key_of(component: str, width: int) -> str:
    """The key of the vectors for `component`; that of the usual one where the width is a small model's."""
    rows = [row for row in ENCODERS if row.component == component]
    return next((row.key for row in rows if row.width == width), rows[0].key if rows else component)


def component_of(width: int) -> str:
    """The text encoder that vectors are for whose file does not say; the first where no encoder has such tokens."""
    return BY_WIDTH[width].component if width in BY_WIDTH else ENCODERS[0].component


def are_vectors(tensor: object) -> bool:
    """Whether this is a tensor of one or several vectors, of whatever width."""
    return isinstance(tensor, LazyTensor) and len(tensor.shape) in (1, 2)


def are_known(tensor: object) -> bool:
    """Whether this is a tensor of one or several vectors as some text encoder has them."""
    return isinstance(tensor, LazyTensor) and are_vectors(tensor) and tensor.shape[-1] in BY_WIDTH


def architectures_of(widths: Mapping[str, int]) -> tuple[str, ...]:
    """The architectures whose text encoders have tokens of these widths, all of them and no other."""
    return tuple(name for name, encoders in _encoders() if encoders == dict(widths))


@cache
def _encoders() -> tuple[tuple[str, dict[str, int]], ...]:
    return tuple((name, {part: shape[1] for part, shape in _tables(name)}) for name in architectures.NAMES)


def _tables(architecture: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    for component, modules in architectures.get(architecture).weights.items():
        if (shape := modules.get("text_model.embeddings.token_embedding")) is not None:
            yield component, shape
