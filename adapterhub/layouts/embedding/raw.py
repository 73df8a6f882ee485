"""Vectors without a name: a bare tensor, `emb` and `emb2`, or a list of such snapshots. Read only.

A1111's "aesthetic embeddings" look the same and are none: means of CLIP's images, not of tokens.
Source: files in the wild (formats/embeddings-hypernetworks-checkpoints.md T15); ComfyUI `comfy/sd1_clip.py` (`load_embed`) reads lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from adapterhub.files import Package
from adapterhub.layouts.embedding.encoders import are_known, component_of
from adapterhub.layouts.embedding.layout import EmbeddingLayout, Vectors, stem
from adapterhub.tensors import LazyTensor

_ALONE = "tensor"
_PAIR = ({"emb"}, {"emb", "emb2"})


def _find(package: Package) -> list[Vectors]:
    file = package.only if len(package.files) == 1 else None
    if file is None or not 0 < len(file.tensors) <= _MANY or not all(map(are_known, file.tensors.values())):
        return []
    return list(_snapshots(file.tree if file.tree is not None else dict(file.tensors), stem(package)))


_MANY = 256
"""Snapshots of one training."""


def _snapshots(tree: Any, token: str) -> Iterator[Vectors]:
    if isinstance(tree, LazyTensor):
        yield Vectors(token, component_of(tree.shape[-1]), _ALONE, tree)
    elif isinstance(tree, dict) and set(tree) in _PAIR:
        for key, tensor in tree.items():
            yield Vectors(token, component_of(tensor.shape[-1]), key, tensor)
    elif isinstance(tree, list) and all(isinstance(part, dict) and set(part) in _PAIR for part in tree):
        for number, part in enumerate(tree):
            for row in _snapshots(part, f"{token}-{number}"):
                yield row._replace(place=f"{number}.{row.place}")


LAYOUT = EmbeddingLayout(
    name="raw", summary="a bare tensor, `emb` with `emb2`, or a list of such snapshots", find=_find
)  # fmt: skip
