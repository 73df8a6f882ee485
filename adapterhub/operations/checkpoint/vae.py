"""The VAE of another file in place of a model's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import adapterhub.architectures as architectures
from adapterhub.adapter import Key, Kind
from adapterhub.architectures import pipeline
from adapterhub.documents import Problem
from adapterhub.errors import NotAnAdapter
from adapterhub.layouts.checkpoint.aside import weights_of
from adapterhub.operations.checkpoint.scaled import require_plain
from adapterhub.operations.problems import warning
from adapterhub.operations.source import Source, open_adapter
from adapterhub.tensors import LazyTensor

VAE = "vae"
CONFIG, _SCALE = "vae/config.json", "scaling_factor"


@dataclass(frozen=True)
class Other:
    """The weights, where in which file each stands, the configuration beside them, and what latents are multiplied by; None where
    nothing tells.
    """

    tensors: Mapping[Key, LazyTensor]
    places: Mapping[Key, str]
    config: Mapping[str, Any] | None
    scale: float | None

    def instead_in(self, opened: Source) -> Source:
        """The source with this configuration, where there is one."""
        if self.config is None:
            return opened
        documents = {**opened.package.documents, CONFIG: self.config}
        return replace(opened, package=replace(opened.package, documents=documents))


def other(path: Path, variant: str | None, stack: ExitStack) -> Other:
    """The VAE at `path`, in the `variant` if it has that, which is open as long as `stack`. NotAnAdapter where there is
    none.
    """
    opened = stack.enter_context(open_adapter(path, variant=variant, strict=False, kinds=(Kind.CHECKPOINT,)))
    require_plain(opened, "Give the fp16 or bf16 VAE that it was made of.")
    tensors = {held: tensor for held, tensor in opened.adapter.tensors.items() if held.component == VAE}
    if not tensors:
        raise NotAnAdapter(f"{path}: holds no VAE", mend="Give a VAE, or a model that has one.")
    places = {held: f"{path}:{opened.reading.places[held]}" for held in tensors}
    alone = len(weights_of(opened.adapter.tensors)) == len(tensors)
    config = opened.package.documents.get("config.json" if alone else CONFIG)
    config = config if isinstance(config, dict) else None
    told = config.get(_SCALE) if config is not None else None
    return Other(tensors, places, config, told if alone or told is not None else _scale(opened))


def other_scale(found: Other, opened: Source) -> Iterator[Problem]:
    """A warning where the model was trained on latents of another scale."""
    own = _scale(opened)
    if found.scale is not None and found.scale != own:
        yield warning("other-latents", VAE, f"the VAE that was given is for latents times {found.scale}, the model for such times {own}",
                      "Give a VAE of the model's own architecture.")  # fmt: skip


def untold_scale(opened: Source) -> Iterator[Problem]:
    """A warning where models of other latents have a VAE of these shapes, too."""
    usual = _usual_scale(opened.adapter.architecture)
    if any(_usual_scale(name) != usual for name in opened.identity.also):
        title = architectures.get(opened.adapter.architecture).title
        yield warning("latents-untold", VAE, f"the VAE does not tell its model: taken as one of {title}, for latents times {usual}",
                      "Say it with --architecture.")  # fmt: skip


def _scale(opened: Source) -> float:
    """What latents are multiplied by: what the folder says, else what is usual for the architecture."""
    config = opened.package.documents.get(CONFIG)
    told: float | None = config.get(_SCALE) if isinstance(config, dict) else None
    return _usual_scale(opened.adapter.architecture) if told is None else told


def _usual_scale(architecture: str) -> float:
    usual: float = pipeline.documents(architecture, [VAE])[CONFIG][_SCALE]
    return usual
