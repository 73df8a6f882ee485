"""Replicate's SDXL trainer: `embeddings.pti` (safetensors), rows for each text encoder. Read only.

`special_params.json` beside it says what the rows are called: {"TOK": "<s0><s1>"}.
Source: replicate/cog-sdxl `dataset_and_utils.py` (`TokenEmbeddingsHandler.save_embeddings`, `load_embeddings`).
"""

from __future__ import annotations

from adapterhub.files import Package
from adapterhub.layouts.embedding.encoders import are_vectors
from adapterhub.layouts.embedding.layout import EmbeddingLayout, Vectors, stem

_KEYS = {"text_encoders_0": "text_encoder", "text_encoders_1": "text_encoder_2"}
_NAMES = "special_params.json"


def _find(package: Package) -> list[Vectors]:
    tensors = package.only.tensors if len(package.files) == 1 else {}
    if not tensors or not tensors.keys() <= _KEYS.keys() or not all(map(are_vectors, tensors.values())):
        return []
    token = _named(package.documents.get(_NAMES)) or stem(package)
    return [Vectors(token, _KEYS[name], name, tensor) for name, tensor in tensors.items()]


def _named(parameters: object) -> str | None:
    """The one name that all rows have together."""
    return next(iter(parameters)) if isinstance(parameters, dict) and len(parameters) == 1 else None


LAYOUT = EmbeddingLayout(name="replicate", summary="Replicate's `embeddings.pti` for SDXL", find=_find)
