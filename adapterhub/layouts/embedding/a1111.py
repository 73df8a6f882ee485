"""A1111's `.pt`: `string_to_param` with the one key `*`, a name and a step; the file's name is the token.

Source: A1111 `modules/textual_inversion/textual_inversion.py` (`Embedding.save`, `create_embedding_from_data`).
"""

from __future__ import annotations

from adapterhub.adapter import Adapter, Key, Role
from adapterhub.files import PNG, TORCH_ZIP, WEBP, File, Package
from adapterhub.layouts.embedding.dictionary import (
    ANY,
    PARAMETERS,
    dictionary,
    encoder_of,
    file_of,
    is_named,
    metadata_of,
    vectors_of,
)
from adapterhub.layouts.embedding.layout import EmbeddingLayout, Saved, Vectors, stem

PLACE = f"{PARAMETERS}.{ANY}"


def _find(package: Package) -> list[Vectors]:
    tree = dictionary(package)
    if tree is None or not is_named(tree) or package.only.container in (PNG, WEBP):
        return []
    return vectors_of(tree, stem(package))


def read_metadata(package: Package) -> dict[str, str]:
    """A1111's fields as text."""
    return metadata_of(dictionary(package) or {})


def place(key: Key, adapter: Adapter) -> str | None:
    """The one place, if the embedding is for one text encoder, and for that which the width will be taken for."""
    alone = all(held.component == key.component for held in adapter.tensors)
    told = key.component == encoder_of(adapter.tensors[key].shape[-1])
    return PLACE if alone and told and key.role is Role.VECTORS else None


def _save(saved: Saved) -> File:
    """The name inside stays what it was."""
    name = saved.adapter.metadata.get("name") or saved.token
    return file_of(saved.adapter, saved.tensors[PLACE], name, saved.form)


LAYOUT = EmbeddingLayout(
    name="a1111",
    summary="`.pt` with `string_to_param`; the file's name is the token",
    find=_find,
    read_metadata=read_metadata,
    containers={".pt": TORCH_ZIP},
    place=place,
    save=_save,
    keeps_fields=True,
)
