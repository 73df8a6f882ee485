"""What the Hub's list tells of a repository, before any of it is read: its kind and architecture, and how that is known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple, TypeVar

import adapterhub.architectures as architectures
from adapterhub.adapter import Kind

T = TypeVar("T")
NAMES = (
    (re.compile(r"pytorch_lora_weights\.(safetensors|bin)"), Kind.LORA),
    (re.compile(r"learned_embeds\.(safetensors|bin)"), Kind.EMBEDDING),
    (re.compile(r"model_index\.json"), Kind.CHECKPOINT),
)
"""Names at the top of a repository that tell the kind, in the order in which `files.directories` looks for them."""
TAGS = {
    "lora": Kind.LORA, "dora": Kind.LORA, "textual_inversion": Kind.EMBEDDING, "textual-inversion": Kind.EMBEDDING,
    "hypernetwork": Kind.HYPERNETWORK,
}  # fmt: skip
"""What diffusers' training scripts and we call a kind. What they call stable-diffusion is any of the families."""
FAMILIES = {
    "stable-diffusion-xl": "sdxl", "stable-diffusion-xl-diffusers": "sdxl", "diffusers:StableDiffusionXLPipeline": "sdxl",
}  # fmt: skip


class Told(NamedTuple):
    """What is known, and from what."""

    kind: Kind | None
    architecture: str | None
    evidence: list[str]


def told(names: Sequence[str], tags: Sequence[str], bases: Iterable[str]) -> Told:
    """Of a repository with files of these `names`, these `tags` and `bases`. None for what nothing says, or several things say
    differently.
    """
    by_name = [(f"file {name}", kind) for pattern, kind in NAMES for name in sorted(names) if pattern.fullmatch(name)][
        :1
    ]
    by_tag = [(f"tag {tag}", TAGS[tag]) for tag in tags if tag in TAGS]
    by_base = [(f"base model {base}", name) for base in bases if (name := _known_bases().get(base.lower()))]
    by_family = [(f"tag {tag}", FAMILIES[tag]) for tag in tags if tag in FAMILIES]
    kind, from_kind = _agreed(by_name) if by_name else _agreed(by_tag)
    architecture, from_architecture = _agreed(by_base) if by_base else _agreed(by_family)
    return Told(kind, architecture, [*from_kind, *from_architecture])


def _agreed(found: Sequence[tuple[str, T]]) -> tuple[T | None, list[str]]:
    """What all of them say, and the first that does."""
    said = {value for _, value in found}
    return (found[0][1], [found[0][0]]) if len(said) == 1 else (None, [])


@cache
def _known_bases() -> dict[str, str]:
    """Architectures by ids of models on the Hub, which takes them in any case."""
    return {id_.lower(): name for name in architectures.NAMES for id_ in architectures.get(name).told.hub}
