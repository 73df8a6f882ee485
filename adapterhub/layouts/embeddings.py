"""Embeddings in safetensors, as far as their header tells: Kohya's `emb_params`, and `clip_l` with `clip_g` for SDXL.

Source: kohya-ss/sd-scripts `train_textual_inversion.py`, `sdxl_train_textual_inversion.py`; widths of the text encoders.
"""

from __future__ import annotations

from typing import NamedTuple

from adapterhub.documents import Token
from adapterhub.files import Package
from adapterhub.tensors import LazyTensor

_COMPONENTS = {"emb_params": "text_encoder", "clip_l": "text_encoder", "clip_g": "text_encoder_2"}
_ARCHITECTURES = {(768,): "sd1", (1024,): "sd2", (768, 1280): "sdxl", (1280,): "sdxl-refiner"}


class Embedding(NamedTuple):
    """What `inspect` says of an embedding; `architecture` is None where the widths are no model's."""

    layout: str
    architecture: str | None
    token: Token


def embedding_in(package: Package) -> Embedding | None:
    """The embedding in a file that holds nothing else; its token is the file's name, since the file has none."""
    tensors = package.only.tensors if len(package.files) == 1 else {}
    if not tensors or not tensors.keys() <= _COMPONENTS.keys() or any(len(t.shape) > 2 for t in tensors.values()):
        return None
    widths = {_COMPONENTS[name]: tensor.shape[-1] for name, tensor in tensors.items()}
    ordered = dict(sorted(widths.items()))
    vectors = max(map(_vectors, tensors.values()))
    stem = package.path.stem if package.path else ""
    token = Token(token=stem, vectors=vectors, widths=ordered)
    return Embedding("kohya", _ARCHITECTURES.get(tuple(ordered.values())), token)


def _vectors(tensor: LazyTensor) -> int:
    return tensor.shape[0] if len(tensor.shape) == 2 else 1
