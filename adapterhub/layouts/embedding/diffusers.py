"""diffusers' `learned_embeds`: the token is the key. One file for each text encoder: SDXL has a second, `…_2`.

Source: diffusers `examples/textual_inversion/textual_inversion.py` and `textual_inversion_sdxl.py` (`save_progress`),
`loaders/textual_inversion.py`; cloneofsimo/lora's `.ti.pt` and Custom Diffusion's `<new1>.bin` are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from adapterhub.adapter import Adapter, Key, Role
from adapterhub.files import SAFETENSORS, TORCH_ZIP, File, Package
from adapterhub.layouts.embedding.encoders import are_known, component_of
from adapterhub.layouts.embedding.layout import EmbeddingLayout, Saved, Vectors
from adapterhub.layouts.lora.suffixes import ROLES
from adapterhub.tensors import LazyTensor

_MANY = 64
"""Tokens of one file."""
_TAKEN = re.compile(
    r"emb2?|em[bp]_params(_out)?|text_encoders_[01]|\d+|(clip_[lgh]|t5(xxl)?|llama)(_out)?|.*\.(weight|bias)"
)
"""Keys of other layouts, and of what is no embedding."""
_LORA = tuple(ROLES)


def _find(package: Package) -> list[Vectors]:
    if len(package.files) > len(_ENDINGS) or not all(_is_dictionary(file) for file in package.files.values()):
        return []
    several = len(package.files) > 1
    return [
        Vectors(token, component_of(tensor.shape[-1]), f"{name}:{token}" if several else token, tensor)
        for name, file in package.files.items()
        for token, tensor in file.tensors.items()
    ]


def _is_dictionary(file: File) -> bool:
    if not 0 < len(file.tensors) <= _MANY or not all(map(are_known, file.tensors.values())):
        return False
    flat = file.tree is None or (isinstance(file.tree, dict) and _is_flat(file.tree, file.tensors))
    return flat and not any(_TAKEN.fullmatch(name) or name.endswith(_LORA) for name in file.tensors)


def _is_flat(tree: Mapping[object, object], tensors: Mapping[str, LazyTensor]) -> bool:
    """Whether a pickle holds nothing but a dictionary of tensors."""
    return tree.keys() == tensors.keys() and all(isinstance(value, LazyTensor) for value in tree.values())


_ENDINGS = {"text_encoder": "", "text_encoder_2": "_2", "text_encoder_3": "_3"}


def _place(key: Key, adapter: Adapter) -> str | None:
    """The token; a second text encoder alone stands in the only file."""
    return key.module if key.component in _ENDINGS and key.role is Role.VECTORS else None


def _save(saved: Saved) -> File:
    return File(saved.tensors, saved.adapter.metadata, dict(saved.tensors), saved.form.container)


LAYOUT = EmbeddingLayout(
    name="diffusers",
    summary="`learned_embeds`: one token, one tensor; two files for SDXL",
    find=_find,
    containers={".safetensors": SAFETENSORS, ".bin": TORCH_ZIP},
    place=_place,
    save=_save,
    holds_token=True,
    apart=lambda key: _ENDINGS[key.component],
    usual_stem="learned_embeds",
)
