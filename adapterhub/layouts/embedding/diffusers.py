"""diffusers' `learned_embeds`: the token is the key. One file for each text encoder: SDXL has a second, `…_2`.

Source: diffusers `examples/textual_inversion/textual_inversion.py` and `textual_inversion_sdxl.py` (`save_progress`),
`loaders/textual_inversion.py`; cloneofsimo/lora's `.ti.pt` and Custom Diffusion's `<new1>.bin` are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath

from adapterhub.adapter import Adapter, Key, Role
from adapterhub.errors import UsageError
from adapterhub.files import SAFETENSORS, TORCH_ZIP, File, Package
from adapterhub.layouts.embedding.encoders import BY_KEY, are_known, are_vectors, component_of
from adapterhub.layouts.embedding.layout import EmbeddingLayout, Saved, Vectors
from adapterhub.layouts.embedding.xti import BLOCKS
from adapterhub.layouts.lora.suffixes import ROLES
from adapterhub.tensors import LazyTensor

_MANY = 64
"""Tokens of one file."""
_TAKEN = re.compile(
    rf"emb2?|(em[bp]_params|{'|'.join(BY_KEY)})(_out)?|text_encoders_[01]|__metadata__|(.*\.)?(weight|bias)|{'|'.join(BLOCKS)}"
)
"""Keys of other layouts, and of what is no embedding."""
_PLACEHOLDER = re.compile(r"<[^<>\s|]+>(_[1-9]\d*)?")
"""`<t>`, as the field writes new words: CLIP's own tokens in such brackets have bars inside."""
_LORA = tuple(ROLES)


def _find(package: Package) -> list[Vectors]:
    if len(package.files) > len(_ENDINGS) or not all(_is_dictionary(file) for file in package.files.values()):
        return []
    several = len(package.files) > 1
    return [
        Vectors(token, _component(name, tensor), f"{name}:{token}" if several else token, tensor)
        for name, file in package.files.items()
        for token, tensor in file.tensors.items()
    ]


def _is_dictionary(file: File) -> bool:
    if not 0 < len(file.tensors) <= _MANY or not _are_vectors(file.tensors):
        return False
    flat = file.tree is None or (isinstance(file.tree, dict) and _is_flat(file.tree, file.tensors))
    return flat and not any(map(_is_taken, file.tensors))


def _are_vectors(tensors: Mapping[str, LazyTensor]) -> bool:
    """Whether all have a width that a text encoder has; or one width, and names that nothing but placeholders have (of small models,
    and of new ones).
    """
    if all(map(are_known, tensors.values())):
        return True
    shaped = all(map(are_vectors, tensors.values())) and len({tensor.shape[-1] for tensor in tensors.values()}) == 1
    return shaped and all(map(_PLACEHOLDER.fullmatch, tensors))


def _is_taken(name: str) -> bool:
    return bool(_TAKEN.fullmatch(name)) or name.endswith(_LORA)


def _is_flat(tree: Mapping[object, object], tensors: Mapping[str, LazyTensor]) -> bool:
    """Whether a pickle holds nothing but a dictionary of tensors."""
    return tree.keys() == tensors.keys() and all(isinstance(value, LazyTensor) for value in tree.values())


def _component(name: str, tensor: LazyTensor) -> str:
    """The text encoder by the width; by the file's name where no encoder has it."""
    told = next(
        (part for part, ending in _ENDINGS.items() if ending and PurePath(name).stem.endswith(ending)), "text_encoder"
    )
    return component_of(tensor.shape[-1]) if are_known(tensor) else told


_ENDINGS = {"text_encoder": "", "text_encoder_2": "_2"}
_ALONE = "text_encoder_3"
"""T5 of DeepFloyd IF and PixArt, whose pipelines have no other; no tool names a third file."""


def _place(key: Key, adapter: Adapter) -> str | None:
    """The token; any text encoder alone stands in the only file."""
    told = key.component in _ENDINGS or {*adapter.components()} == {_ALONE}
    return key.module if told and key.role is Role.VECTORS else None


def _save(saved: Saved) -> File:
    if _is_taken(saved.token):
        raise UsageError(
            f"{saved.token!r} as a key is the mark of other files, and cannot be a token", mend="Give another: --token."
        )
    return File(saved.tensors, saved.adapter.metadata, dict(saved.tensors), saved.form.container)


LAYOUT = EmbeddingLayout(
    name="diffusers",
    summary="`learned_embeds`: one token, one tensor; two files for SDXL",
    find=_find,
    containers={".safetensors": SAFETENSORS, ".bin": TORCH_ZIP},
    place=_place,
    save=_save,
    holds_token=True,
    apart=lambda key: _ENDINGS.get(key.component, ""),
    usual_stem="learned_embeds",
)
