"""The weights of a whole model by canonical name, from a single LDM file or a diffusers folder; nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import adapterhub.architectures as architectures
from adapterhub.architectures import Architecture
from adapterhub.errors import NotAnAdapter
from adapterhub.files import Package
from adapterhub.tensors import LazyTensor

_FOLDERS = ("unet", "text_encoder", "text_encoder_2", "vae")


def weights(package: Package, architecture: str) -> Mapping[str, LazyTensor]:
    """`component.module.weight` (or `.bias`) → tensor, for whatever of `architecture` the package holds."""
    model = architectures.get(architecture)
    in_folders = any("/" in name for name in package.files)
    found = dict(_from_folder(package) if in_folders else _from_single_file(package, model))
    if not found:
        raise NotAnAdapter(
            f"{package.path}: holds no weight of {model.title}", mend="Give the base model of the adapter."
        )
    return found


def _from_folder(package: Package) -> Iterator[tuple[str, LazyTensor]]:
    for name, file in package.files.items():
        component = name.partition("/")[0]
        if component not in _FOLDERS:
            continue
        # transformers ≥ 5.6 writes CLIPTextModel without this level
        short = component == "text_encoder" and not any(key.startswith("text_model.") for key in file.tensors)
        for key, tensor in file.tensors.items():
            yield f"{component}.{'text_model.' if short else ''}{key}", tensor


def _from_single_file(package: Package, model: Architecture) -> Iterator[tuple[str, LazyTensor]]:
    stored = package.only.tensors
    for row in model.single_file():
        tensor = stored.get(row.place)
        if tensor is None:
            continue
        if row.crossing == "stacked":
            rows = tensor.shape[0] // len(row.tensors)
            yield from zip(row.tensors, tensor.split_rows([rows] * len(row.tensors)), strict=True)
        elif row.crossing == "transposed":
            yield row.tensors[0], tensor.transpose()
        elif row.crossing == "reshaped":
            yield row.tensors[0], tensor.reshape(*tensor.shape[:2])
        else:
            yield row.tensors[0], tensor
