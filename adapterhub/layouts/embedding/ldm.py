"""The `.pt` of textual inversion's own trainer: a ParameterDict by placeholder, no name and no step. Read only.

Source: rinongal/textual_inversion `ldm/modules/embedding_manager.py` (`EmbeddingManager.save`).
"""

from __future__ import annotations

from adapterhub.files import Package
from adapterhub.layouts.embedding.dictionary import dictionary, is_named, vectors_of
from adapterhub.layouts.embedding.layout import EmbeddingLayout, Vectors, stem


def _find(package: Package) -> list[Vectors]:
    tree = dictionary(package)
    return [] if tree is None or is_named(tree) else vectors_of(tree, stem(package))


LAYOUT = EmbeddingLayout(
    name="ldm", summary="the original trainer's `.pt`: `string_to_param` by placeholder, without a name", find=_find
)
