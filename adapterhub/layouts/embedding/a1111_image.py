"""A1111's embedding in a picture: its dictionary in a text chunk and in two strips at the sides; the name inside is the token.

Source: A1111 `modules/textual_inversion/image_embedding.py`, `textual_inversion.py` (`load_from_file`).
"""

from __future__ import annotations

from adapterhub.files import PNG, WEBP, File, Package
from adapterhub.layouts.embedding.a1111 import PLACE, place, read_metadata
from adapterhub.layouts.embedding.dictionary import dictionary, file_of, vectors_of
from adapterhub.layouts.embedding.layout import EmbeddingLayout, Saved, Vectors, stem


def _find(package: Package) -> list[Vectors]:
    tree = dictionary(package)
    if tree is None or package.only.container not in (PNG, WEBP):
        return []
    inside = tree.get("name")
    return vectors_of(tree, inside if isinstance(inside, str) and inside else stem(package))


def _save(saved: Saved) -> File:
    """A1111 calls it by the name inside, so that has to be the token."""
    return file_of(saved.adapter, saved.tensors[PLACE], saved.token, saved.form)


LAYOUT = EmbeddingLayout(
    name="a1111-image",
    summary="PNG (or WebP) with the text chunk and the side strips; the name inside is the token",
    find=_find,
    read_metadata=read_metadata,
    containers={".png": PNG, ".webp": WEBP},
    place=place,
    save=_save,
    holds_token=True,
    keeps_fields=True,
)
