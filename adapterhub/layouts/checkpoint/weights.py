"""The weights of a base model by our names, from whatever it lies in; nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping

import adapterhub.architectures as architectures
from adapterhub.errors import NotAnAdapter
from adapterhub.files import Package
from adapterhub.layouts.checkpoint.aside import weights_of
from adapterhub.layouts.checkpoint.bare import bare
from adapterhub.layouts.checkpoint.diffusers import FILES, as_folder, components
from adapterhub.layouts.checkpoint.places import spelled
from adapterhub.layouts.checkpoint.single_file import as_whole
from adapterhub.tensors import LazyTensor


def weights(package: Package, architecture: str) -> Mapping[str, LazyTensor]:
    """`component.module.weight` (or `.bias`) → tensor, for whatever of `architecture` the package holds."""
    package = bare(package).package
    parts = {name: part for name, part in components(package).items() if name in FILES}
    placed = as_folder(package, parts, architecture) if parts else as_whole(package.only.tensors, architecture)
    found = {f"{held.component}.{spelled(held)}": placed.tensors[held] for held in weights_of(placed.tensors)}
    if not found:
        title = architectures.get(architecture).title
        raise NotAnAdapter(f"{package.path}: holds no weight of {title}", mend="Give the base model of the adapter.")
    return found
