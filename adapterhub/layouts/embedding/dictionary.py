"""The dictionary that the trainer of the paper and A1111 pickle: `string_to_param`, `string_to_token` and a few fields.

Source: rinongal/textual_inversion `ldm/modules/embedding_manager.py` (`save`); A1111
`modules/textual_inversion/textual_inversion.py` (`Embedding.save`, `create_embedding_from_data`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapterhub.adapter import Adapter
from adapterhub.files import File, Package
from adapterhub.layouts.base import Form
from adapterhub.layouts.embedding.encoders import are_vectors, component_of
from adapterhub.layouts.embedding.layout import NAME, Vectors
from adapterhub.tensors import LazyTensor

PARAMETERS, TOKENS, NOTES = "string_to_param", "string_to_token", "metadata"
"""NOTES is ours: a dictionary of text for what A1111 has no field for, and no reader looks at."""
ANY = "*"
"""The one key that A1111 writes and diffusers asks for: the token is told elsewhere."""
_CLIP_ASTERISK = 265
"""What `*` is in CLIP's vocabulary; nothing reads it."""
_BERT = {1280: "bert"}
"""Who trained with this width into such a file had the paper's own model, and not SDXL's second text encoder."""
_FIELDS = ("name", "step", "sd_checkpoint", "sd_checkpoint_name")


def dictionary(package: Package) -> Mapping[str, Any] | None:
    """The dictionary of a file that is such an embedding; None for every other."""
    tree = package.only.tree if len(package.files) == 1 else None
    parameters = tree.get(PARAMETERS) if isinstance(tree, dict) else None
    if not isinstance(parameters, dict) or not parameters:
        return None
    return tree if all(map(are_vectors, parameters.values())) else None


def numbers(package: Package) -> list[str]:
    """The names of the tensors that tell what number the placeholder has in a vocabulary."""
    held = package.only.tensors if len(package.files) == 1 else ()
    return [name for name in held if name.startswith(f"{TOKENS}.")]


def is_named(tree: Mapping[str, Any]) -> bool:
    """Whether it has any field of A1111's: the trainer of the paper writes none."""
    return any(field in tree for field in _FIELDS)


def metadata_of(tree: Mapping[str, Any]) -> dict[str, str]:
    """The fields as text; None says nothing."""
    notes = tree.get(NOTES)
    kept = {key: text for key, text in notes.items() if isinstance(text, str)} if isinstance(notes, dict) else {}
    fields = {field: str(tree[field]) for field in _FIELDS if tree.get(field) is not None}
    return {**fields, **kept, **({"name": kept[NAME]} if NAME in kept else {})}


def encoder_of(width: int) -> str:
    """The component that vectors of `width` are for in such a file."""
    return _BERT.get(width) or component_of(width)


def vectors_of(tree: Mapping[str, Any], token: str) -> list[Vectors]:
    """The vectors of each key; `*` stands for `token`."""
    return [
        Vectors(token if key == ANY else str(key), encoder_of(tensor.shape[-1]), f"{PARAMETERS}.{key}", tensor)
        for key, tensor in tree[PARAMETERS].items()
    ]


def file_of(adapter: Adapter, tensor: LazyTensor, name: str, form: Form) -> File:
    """A1111's file of one token, whose name inside is `name`."""
    told = dict(adapter.metadata)
    inside, step, *checkpoint = (told.pop(field, None) for field in _FIELDS)
    if inside not in (None, name):
        told[NAME] = str(inside)
    fields = (name, int(step) if step is not None and step.isdecimal() else step, *checkpoint)
    tree: dict[str, Any] = {
        TOKENS: {ANY: _CLIP_ASTERISK},
        PARAMETERS: {ANY: tensor},
        **dict(zip(_FIELDS, fields, strict=True)),
    }
    if told:
        tree[NOTES] = told
    return File({f"{PARAMETERS}.{ANY}": tensor}, {}, tree, form.container, form.cover)
