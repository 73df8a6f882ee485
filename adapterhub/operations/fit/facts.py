"""What a file is, as far as readers care: its kind, layout, architecture, and its modules with what is special about each.

Everything is known from the header and the alphas; a record of the registry knows less, and answers as far as that goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from adapterhub.adapter import Kind, Role
from adapterhub.algorithms import algorithm_of
from adapterhub.layouts.hypernetwork.structure import is_linear, nets, structure_of
from adapterhub.operations.fit.marks import file_marks, marks_of
from adapterhub.operations.source import Source
from adapterhub.operations.work import NO_LOSS

UNKNOWN = "unknown"
"""The algorithm of keys that no layout explains."""
_COMFYUI_ACTIVATIONS = frozenset("linear relu leakyrelu elu swish tanh sigmoid softsign mish".split())


class Piece(NamedTuple):
    """One module, or a `number` of which no more is known: then `path` is empty. `keys` are its names in the file."""

    algorithm: str
    component: str = ""
    path: str = ""
    marks: frozenset[str] = frozenset()
    number: int = 1
    keys: int = 0

    @property
    def name(self) -> str:
        """How people are told of it."""
        return ".".join(filter(None, (self.component, self.path))) or self.algorithm


@dataclass(frozen=True)
class Facts:
    """What readers decide by."""

    kind: Kind
    layout: str | None
    architecture: str | None
    pieces: tuple[Piece, ...]

    @property
    def modules(self) -> int:
        """How many modules it has."""
        return sum(piece.number for piece in self.pieces)


def facts_of_record(
    kind: Kind, layout: str | None, architecture: str | None,
    algorithms: Mapping[str, int] = {}, components: Mapping[str, int] = {},
) -> Facts:  # fmt: skip
    """The facts that `inspect` tells, without the file: counts of modules by algorithm (`lora+dora` …) and by component.

    Rules about single modules, their alphas and the axis of a DoRA are not asked then. A record without algorithms (an
    embedding, a hypernetwork) is one piece.
    """
    component = next(iter(components)) if len(components) == 1 else ""
    pieces = [
        Piece(algorithm, component, marks=frozenset(("dora",)) if special else frozenset(), number=count)
        for label, count in algorithms.items()
        for algorithm, _, special in (label.partition("+"),)
    ]
    return Facts(kind, layout, architecture, tuple(pieces or [Piece(str(kind))]))


def facts_of(source: Source) -> Facts:
    """The facts of an opened adapter."""
    pieces = {Kind.LORA: _lora, Kind.EMBEDDING: _embedding, Kind.HYPERNETWORK: _hypernetwork}[source.reading.kind]
    return Facts(source.reading.kind, source.layout.name, source.identity.architecture, tuple(pieces(source)))


def _lora(source: Source) -> Iterator[Piece]:
    reading = source.reading
    whole = file_marks(reading.modules, source.package, reading)
    for module, roles in reading.modules.items():
        algorithm = algorithm_of(roles)
        names = reading.names.get(module, {})
        odd = {f"odd:{code}" for place in names.values() if (code := reading.mended.get(place))}
        yield Piece(algorithm.name if algorithm else UNKNOWN, module.component, module.module,
                    marks_of(roles) | whole.get(module, frozenset()) | odd, keys=len(names))  # fmt: skip
    for place, why in source.dropped:
        if why not in NO_LOSS:
            yield Piece(UNKNOWN, path=place, marks=frozenset(("alpha-missing",)), keys=1)


def _embedding(source: Source) -> Iterator[Piece]:
    adapter = source.adapter
    tokens = list(dict.fromkeys(key.module for key in adapter.tensors))
    shared = {"several-tokens"} if len(tokens) > 1 else set()
    for key, tensor in adapter.tensors.items():
        marks = {"later-token"} if key.module != tokens[0] else set()
        marks |= {"matrix"} if len(tensor.shape) > 1 else set()
        marks |= {"output"} if key.role is Role.OUTPUT_VECTORS else set()
        yield Piece("embedding", key.component, key.module, frozenset(marks | shared), keys=1)


def _hypernetwork(source: Source) -> Iterator[Piece]:
    structure = structure_of(source.adapter)
    marks = {
        "rare-activation": structure.activation not in _COMFYUI_ACTIVATIONS,
        "dropout": bool(structure.dropout and any(structure.dropout)),
        "skip-connection": structure.skip_connection,
        "nonlinear": not is_linear(structure),
    }
    found = frozenset(mark for mark, there in marks.items() if there)
    for net in nets(structure):
        yield Piece("hypernetwork", "unet", f"{net.width}.{net.half}", found)
