"""What a new safetensors file says of itself."""

from __future__ import annotations

import adapterhub.architectures as architectures
import adapterhub.metadata as metadata
from adapterhub.adapter import Adapter


def retitled(adapter: Adapter, title: str) -> Adapter:
    """The adapter with the metadata that readers filter by, true of the new file; `title` where it had none."""
    if not adapter.architecture:
        return adapter
    model = architectures.get(adapter.architecture)
    return adapter.with_metadata(metadata.renewed(adapter.metadata, model, title, adapter.kind))
