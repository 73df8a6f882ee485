"""Architecture: the modules of a model by component, their shapes, and their names in each dialect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from adapterhub.architectures.dialect import DIFFUSERS, Dialect, Row
from adapterhub.errors import UnknownName
from adapterhub.tensors import Shape


class Part(NamedTuple):
    """Where a component stands in a single-file checkpoint, and the dialect that it is spelled in there."""

    prefix: str
    dialect: str


class Told(NamedTuple):
    """What metadata says of a model. Of `modelspec` ids and of beginnings of `ss_base_model_version` the first is written
    and any is believed; `implementation` is ModelSpec's, `v2` Kohya's `ss_v2`. `hub` are ids of models on the Hugging Face Hub.
    """

    modelspec: tuple[str, ...]
    implementation: str
    base_model_version: tuple[str, ...]
    v2: str
    hub: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Architecture:
    """One model. Its mappings go from component to module path, in the order of the live model, and are not to be changed.

    Canonical paths are those of diffusers and transformers, the text encoders' always with `text_model.`, which
    transformers 5.6 dropped from CLIPTextModel.
    """

    name: str
    title: str
    told: Told
    weights: Mapping[str, Mapping[str, Shape]]
    biased: Mapping[str, frozenset[str]]
    dialects: Mapping[str, Mapping[str, Dialect]]
    parts: Mapping[str, Part]

    @property
    def modelspec(self) -> str:
        """Its ModelSpec id, without "/lora"."""
        return self.told.modelspec[0]

    def module_names(self, component: str, dialect: str = "diffusers") -> Mapping[str, str]:
        """Each module path of `component`, and what `dialect` calls it ("diffusers", "ldm"; without any prefix).

        "ldm" leaves text encoders as they are: adapters call them by their HF names, whatever they call the UNet.
        In "openclip", three modules share the name of the one that they are stacked in.
        Raises UnknownName for a dialect or component that the architecture lacks.
        """
        return _module_names(self, component, dialect)

    def tensors(self, component: str) -> Iterator[tuple[str, str, Shape]]:
        """(module path, "weight" or "bias", shape) of every tensor of `component`."""
        for path, shape in self.weights[component].items():
            yield path, "weight", shape
            if path in self.biased[component]:
                yield path, "bias", shape[:1]

    def single_file(self) -> tuple[Row, ...]:
        """How the tensors of a whole LDM checkpoint correspond to ours, each of which stands in exactly one row.

        What diffusers and transformers have no place for is no row: position_ids, logit_scale, SD 2's last block.
        """
        return _single_file(self)

    def dialect(self, name: str, component: str) -> Dialect:
        """How the dialect called `name` spells `component`. Raises UnknownName where the architecture lacks either."""
        known = ("diffusers", *self.dialects)
        if name not in known:
            raise UnknownName("dialect", name, known)
        if component not in self.weights:
            raise UnknownName(f"component of {self.name}", component, tuple(self.weights))
        return self.dialects.get(name, {}).get(component, DIFFUSERS)


@cache
def _module_names(architecture: Architecture, component: str, dialect: str) -> dict[str, str]:
    spelling = architecture.dialect(dialect, component)
    return {path: spelling.module(path) for path in architecture.weights[component]}


@cache
def _single_file(architecture: Architecture) -> tuple[Row, ...]:
    rows: dict[str, Row] = {}
    for component, part in architecture.parts.items():
        dialect = architecture.dialect(part.dialect, component)
        for path, kind, _ in architecture.tensors(component):
            row = dialect.row(path, kind, inner=f"{component}.", outer=part.prefix)
            rows[row.place] = row  # a stacked row comes once for each of its modules
    return tuple(rows.values())
