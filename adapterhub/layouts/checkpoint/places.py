"""Between the tensors of an LDM file and ours, in both directions, by the rows of `Architecture.single_file`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

import adapterhub.architectures as architectures
from adapterhub.adapter import Key, Role
from adapterhub.architectures import Row
from adapterhub.errors import BrokenAdapter
from adapterhub.tensors import LazyTensor, stack_rows

_ROLES = {"weight": Role.LAYER_WEIGHT, "bias": Role.LAYER_BIAS}
_SUFFIXES = {role: kind for kind, role in _ROLES.items()}


@dataclass
class Placed:
    """Tensors by key, the place of each in its file, the names that no row has, and what has other axes in the file."""

    tensors: dict[Key, LazyTensor] = field(default_factory=dict)
    places: dict[Key, str] = field(default_factory=dict)
    rest: list[str] = field(default_factory=list)
    turned: set[Key] = field(default_factory=set)

    def place(self, held: Key, tensor: LazyTensor, place: str, architecture: str) -> None:
        """Takes in what stands at `place`: a linear layer as a 1×1 convolution where the architecture has one, or the other way
        around.
        """
        expected = _as_expected(held, tensor, architecture)
        self.tensors[held], self.places[held] = expected, place
        if expected is not tensor:
            self.turned.add(held)


def key(name: str) -> Key:
    """The key of our tensor `component.module.weight`."""
    path, _, kind = name.rpartition(".")
    component, _, module = path.partition(".")
    return Key(component, module, _ROLES[kind])


def spelled(held: Key) -> str:
    """The name of a weight inside its component, as diffusers and transformers have it."""
    return f"{held.module}.{_SUFFIXES[held.role]}"


@cache
def rows(architecture: str) -> Mapping[str, Row]:
    """The rows of an architecture by place."""
    return {row.place: row for row in architectures.get(architecture).single_file()}


@cache
def place_of(architecture: str) -> Mapping[Key, str]:
    """The place of each of our tensors."""
    return {key(name): row.place for row in rows(architecture).values() for name in row.tensors}


def take_apart(tensors: Mapping[str, LazyTensor], architecture: str) -> Placed:
    """The tensors of an LDM file as ours: fused projections split, transposed and reshaped ones turned back."""
    placed = Placed()
    table = rows(architecture)
    for name, tensor in tensors.items():
        row = table.get(name)
        if row is None or not _can_cross(row, tensor):
            placed.rest.append(name)
            continue
        for ours, part in zip(map(key, row.tensors), _inward(row, tensor), strict=True):
            placed.place(ours, part, name, architecture)
    return placed


def _as_expected(held: Key, tensor: LazyTensor, architecture: str) -> LazyTensor:
    known = architectures.get(architecture).weights.get(held.component, {}).get(held.module, ())
    is_point = len(known) == 2 or known[2:] == (1, 1)
    is_other = held.role is Role.LAYER_WEIGHT and len(known) != len(tensor.shape)
    return turned(tensor) if is_point and is_other else tensor


def turned(tensor: LazyTensor) -> LazyTensor:
    """A 1×1 convolution as a linear layer, and the other way around; what is neither stays."""
    if len(tensor.shape) == 2:
        return tensor.reshape(*tensor.shape, 1, 1)
    return tensor.reshape(*tensor.shape[:2]) if tensor.shape[2:] == (1, 1) else tensor


def as_layer(held: Key, tensor: LazyTensor, architecture: str) -> LazyTensor | None:
    """What a folder has for `held`, a 1×1 convolution as the linear layer that it is; None for what cannot be one."""
    place = place_of(architecture).get(held)
    if place is None or (row := rows(architecture)[place]).crossing != "reshaped":
        return tensor
    return _inward(row, tensor)[0] if _can_cross(row, tensor) else None


def put_together(tensors: Mapping[Key, LazyTensor], architecture: str) -> dict[str, LazyTensor]:
    """The tensors of an LDM file that hold ours, as far as they are there."""
    made: dict[str, LazyTensor] = {}
    for row in _rows_of(tensors, architecture):
        parts = _parts(row, tensors)
        if len(parts) == len(row.tensors):
            made[row.place] = _outward(row, list(parts.values()))
    return made


def stacks(tensors: Mapping[Key, LazyTensor], architecture: str) -> Iterator[tuple[Row, dict[Key, LazyTensor]]]:
    """(row, those of its tensors that are there) of everything that an LDM file has in one tensor, and we in several."""
    for row in _rows_of(tensors, architecture):
        if row.crossing == "stacked":
            yield row, _parts(row, tensors)


def _parts(row: Row, tensors: Mapping[Key, LazyTensor]) -> dict[Key, LazyTensor]:
    return {ours: tensors[ours] for name in row.tensors if (ours := key(name)) in tensors}


def _rows_of(tensors: Iterable[Key], architecture: str) -> list[Row]:
    table, places = rows(architecture), place_of(architecture)
    return [table[place] for place in dict.fromkeys(places[held] for held in tensors if held in places)]


def _can_cross(row: Row, tensor: LazyTensor) -> bool:
    """Whether a tensor has the axes, and the rows, that its crossing takes."""
    axes = len(tensor.shape)
    if row.crossing == "stacked":
        return axes in (1, 2) and tensor.shape[0] % len(row.tensors) == 0
    if row.crossing == "reshaped":
        return axes == 2 or (axes == 4 and tensor.shape[2:] == (1, 1))
    return row.crossing == "same" or axes == 2


def _inward(row: Row, tensor: LazyTensor) -> list[LazyTensor]:
    match row.crossing:
        case "stacked":
            return tensor.split_rows([tensor.shape[0] // len(row.tensors)] * len(row.tensors))
        case "transposed":
            return [tensor.transpose()]
        case "reshaped":
            return [tensor.reshape(*tensor.shape[:2])]
    return [tensor]


def _outward(row: Row, parts: list[LazyTensor]) -> LazyTensor:
    match row.crossing:
        case "stacked":
            _require_one_dtype(row, parts)
            return stack_rows(parts)
        case "transposed":
            return parts[0].transpose()
        case "reshaped":
            return parts[0].reshape(*parts[0].shape, 1, 1)
    return parts[0]


def _require_one_dtype(row: Row, parts: list[LazyTensor]) -> None:
    if len({part.dtype for part in parts}) > 1:
        told = ", ".join(f"{name} is {part.dtype}" for name, part in zip(row.tensors, parts, strict=True))
        raise BrokenAdapter(f"a single file has these in one tensor, which has one dtype: {told}", row.tensors,
                            mend="--dtype fp16, bf16 or fp32 gives them the same.")  # fmt: skip
