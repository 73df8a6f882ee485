"""LoRAs as one source: what the modules of each input are called among those of all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from adapterhub.adapter import Key, Module, Role
from adapterhub.errors import RefusedInput
from adapterhub.metadata import HASHED
from adapterhub.operations.joining import joined
from adapterhub.operations.lora.alphas import FIELD
from adapterhub.operations.source import Source

_ITS_OWN = HASHED | {FIELD, "modelspec.title", "modelspec.date", "modelspec.thumbnail"}
"""Fields that are about one file, and not about what is made of it."""


def join(opened: Sequence[Source], target: Path | str) -> Source:
    """All inputs as one at `target`: their modules labelled, and the fields kept in which they agree.

    RefusedInput where they are for different architectures.
    """
    _ensure_alike(opened)
    return joined(opened, target, labelled, _ITS_OWN)


def _ensure_alike(opened: Sequence[Source]) -> None:
    if len({source.adapter.architecture for source in opened}) > 1:
        each = ", ".join(f"{source.package.path} is for {source.adapter.architecture}" for source in opened)
        raise RefusedInput(f"these are for different models: {each}", mend="Give files that are for one architecture.")


def labelled(number: int, module: Module) -> Module:
    """What a module of an input is called among those of all."""
    return Module(module.component, f"{number}:{module.module}")


def label_of(module: Module) -> tuple[int, Module]:
    """Of which input a labelled module is, and what it is called there."""
    number, _, path = module.module.partition(":")
    return int(number), Module(module.component, path)


def keys(number: int, module: Module, roles: Iterable[Role]) -> list[Key]:
    """What tensors of a module of an input are called among those of all."""
    return [Key(*labelled(number, module), role) for role in roles]
