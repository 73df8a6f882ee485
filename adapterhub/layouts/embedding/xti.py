"""Kohya's extended textual inversion (P+): one embedding for each of 16 blocks of the UNet. Read only: no other tool has it.

Source: kohya-ss/sd-scripts `train_textual_inversion_XTI.py`, `XTI_hijack.py`; Voynov et al. 2023, arXiv 2303.09522.
"""

from __future__ import annotations

from adapterhub.files import Package
from adapterhub.layouts.embedding.encoders import are_vectors
from adapterhub.layouts.embedding.layout import EmbeddingLayout, Vectors, stem

BLOCKS = (
    *(f"IN{block:02}" for block in (1, 2, 4, 5, 7, 8)), "MID", *(f"OUT{block:02}" for block in range(3, 12)),
)  # fmt: skip
"""The cross-attentions of SD 1 and 2 in LDM's order."""


def _find(package: Package) -> list[Vectors]:
    tensors = package.only.tensors if len(package.files) == 1 else {}
    if tensors.keys() != set(BLOCKS) or not all(map(are_vectors, tensors.values())):
        return []
    token = stem(package)
    return [Vectors(token, f"unet.{name}", name, tensor) for name, tensor in tensors.items()]


LAYOUT = EmbeddingLayout(
    name="xti", summary="16 embeddings, one for each cross-attention of the UNet (P+)", find=_find
)  # fmt: skip
