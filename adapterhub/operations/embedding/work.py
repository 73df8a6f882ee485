"""The answers of embeddings: `inspect`, `validate`, `convert` and `diff` ask for them (`operations/work.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.adapter import Adapter, Role
from adapterhub.documents import Problem, Token
from adapterhub.files import Package
from adapterhub.layouts.base import Reading
from adapterhub.layouts.embedding.layout import tokens
from adapterhub.layouts.identity import Identity
from adapterhub.operations.embedding.faults import faults
from adapterhub.tensors import LazyTensor

if TYPE_CHECKING:
    from adapterhub.operations.base import Base
    from adapterhub.operations.source import Source
    from adapterhub.operations.work import Made, Request


def examine(package: Package, identity: Identity, reading: Reading) -> tuple[dict[str, Any], list[Problem]]:
    """The tokens, and what shapes, names and fields tell."""
    found = [_token(reading.adapter, token) for token in tokens(reading.adapter)]
    fields = {"tokens": found, "vectors": sum(token.vectors for token in found), "metadata": reading.metadata}
    return fields, list(faults(package, identity, reading))


def _token(adapter: Adapter, token: str) -> Token:
    held = {key: tensor for key, tensor in adapter.tensors.items() if key.module == token}
    inputs = {key.component: tensor for key, tensor in held.items() if key.role is Role.VECTORS}
    shown = inputs or {key.component: tensor for key, tensor in held.items()}
    widths = {component: tensor.shape[-1] for component, tensor in sorted(shown.items())}
    return Token(token=token, vectors=max(map(count, shown.values())), widths=widths)


def count(tensor: LazyTensor) -> int:
    """How many vectors a tensor holds."""
    return tensor.shape[0] if len(tensor.shape) == 2 else 1


def value_faults(package: Package, identity: Identity, reading: Reading, base: Path | None) -> Iterator[Problem]:
    """What is wrong with the vectors, beside the tokens that the text encoder knows."""
    from adapterhub.operations.embedding.values import value_faults as everything

    yield from everything(package, identity, reading, base)


def make(opened: Source, request: Request, base: Base) -> Made:
    """The embedding, or the embeddings that travel in a LoRA file, in another layout."""
    from adapterhub.operations.embedding.make import make as made

    return made(opened, request)
