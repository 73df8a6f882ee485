"""The list of architectures, as `adapterhub architectures` prints it."""

from __future__ import annotations

import math

import adapterhub.architectures as architectures
from adapterhub.documents import ArchitectureInfo


def listed() -> list[ArchitectureInfo]:
    """One row an architecture, in order of preference."""
    return [_row(architectures.get(name)) for name in architectures.NAMES]


def _row(model: architectures.Architecture) -> ArchitectureInfo:
    shapes = (shape for component in model.weights for _, _, shape in model.tensors(component))
    return ArchitectureInfo(
        name=model.name,
        title=model.title,
        modelspec=model.modelspec,
        components={component: len(weights) for component, weights in model.weights.items()},
        parameters=sum(map(math.prod, shapes)),
    )
