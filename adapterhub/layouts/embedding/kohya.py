"""Kohya's safetensors, which A1111, ComfyUI, InvokeAI and SwarmUI read: `emb_params`, or `clip_l` with `clip_g` for SDXL.

Source: kohya-ss/sd-scripts `train_textual_inversion.py`, `sdxl_train_textual_inversion.py`; OneTrainer's `emp_params` (sic) and
its `…_out`; `t5xxl` is ComfyUI's name, `t5` that of diffusers' advanced trainer and of OneTrainer.
"""

from __future__ import annotations

from adapterhub.adapter import Adapter, Key, Role
from adapterhub.files import SAFETENSORS, TORCH_ZIP, File, Package
from adapterhub.layouts.embedding.encoders import BY_KEY, are_vectors, component_of, key_of
from adapterhub.layouts.embedding.layout import EmbeddingLayout, Saved, Vectors, stem

ALONE = "emb_params"
"""The key where there is one text encoder."""
_ALONE = (ALONE, "emp_params")
_OUT = "_out"


def _find(package: Package) -> list[Vectors]:
    tensors = package.only.tensors if len(package.files) == 1 else {}
    if not 0 < len(tensors) <= 2 * len(BY_KEY) or not all(
        name.removesuffix(_OUT) in (*BY_KEY, *_ALONE) for name in tensors
    ):
        return []
    if not all(map(are_vectors, tensors.values())):
        return []
    token = stem(package)
    found = []
    for name, tensor in tensors.items():
        encoder = BY_KEY.get(name.removesuffix(_OUT))
        component = encoder.component if encoder else component_of(tensor.shape[-1])
        role = Role.OUTPUT_VECTORS if name.endswith(_OUT) else Role.VECTORS
        found.append(Vectors(token, component, name, tensor, role))
    return found


def _place(key: Key, adapter: Adapter) -> str | None:
    if key.component.startswith("unet"):
        return None
    alone = {held.component for held in adapter.tensors} == {"text_encoder"}
    name = ALONE if alone else key_of(key.component, adapter.tensors[key].shape[-1])
    return name + _OUT * (key.role is Role.OUTPUT_VECTORS)


def _save(saved: Saved) -> File:
    return File(saved.tensors, saved.adapter.metadata, dict(saved.tensors), saved.form.container)


LAYOUT = EmbeddingLayout(
    name="kohya",
    summary="`emb_params`, or `clip_l` with `clip_g`; the file's name is the token",
    find=_find,
    containers={".safetensors": SAFETENSORS, ".pt": TORCH_ZIP},
    place=_place,
    save=_save,
)
