"""`hypernetwork merge`: several hypernetworks as one, exactly: side by side, or one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from adapterhub.adapter import Adapter, Key, Role
from adapterhub.documents import HypernetworkStructure
from adapterhub.errors import RefusedInput
from adapterhub.layouts.hypernetwork.structure import (
    LINEAR,
    MIXING,
    Net,
    nets,
    sizes,
    stages,
    structure_of,
    with_structure,
)
from adapterhub.layouts.hypernetwork.widths import architectures_of
from adapterhub.operations.hypernetwork.affine import affine, chained, computed, require_linear
from adapterhub.operations.lora import deltas
from adapterhub.tensors import LazyTensor, Shape

_ATTACH = "Use them together instead: A1111 and attach() chain several."


class Part(NamedTuple):
    """One hypernetwork, and how much of it is wanted."""

    adapter: Adapter
    weight: float

    @property
    def structure(self) -> HypernetworkStructure:
        return structure_of(self.adapter)


def summed(parts: Sequence[Part]) -> Adapter:
    """x + Σ weight · f(x): the hidden units of all side by side, those that a width lacks as zeros.

    RefusedInput unless all have as many layers, the same activation, none behind the last layer, and no layer norm.
    """
    structure = _together(parts)
    tensors: dict[Key, LazyTensor] = {}
    for net in nets(structure):
        wide = sizes(structure, net.width)
        for layer, (before, after) in enumerate(pairwise(wide)):
            for role, shape in ((Role.LAYER_WEIGHT, (after, before)), (Role.LAYER_BIAS, (after,))):
                value = partial(_beside, parts, net, layer, role, shape)
                tensors[net.key("linear", layer, role)] = computed(_dtype(parts), shape, value)
        tensors |= _slopes(parts, structure, net)
    return _made(parts, structure, tensors)


def _together(parts: Sequence[Part]) -> HypernetworkStructure:
    """The structure of the sum."""
    all_of = [part.structure for part in parts]
    first = all_of[0]
    alike = {(len(one.layer_structure), one.activation) for one in all_of}
    if len(alike) > 1:
        told = "; ".join(f"{layers - 1} layers, {activation}" for layers, activation in sorted(alike))
        raise RefusedInput(f"nets of different depth or activation have no sum in one net: {told}", mend=_ATTACH)
    for one in all_of:
        _require_summable(one)
    widths = list(dict.fromkeys(width for one in all_of for width in one.widths))
    inner = [_multiple([one.layer_structure[layer] for one in all_of], widths)
             for layer in range(1, len(first.layer_structure) - 1)]  # fmt: skip
    return HypernetworkStructure(
        widths=widths, layer_structure=[1, *inner, 1], activation=first.activation, activate_output=False,
        weight_initialization=first.weight_initialization,
    )  # fmt: skip


def _require_summable(structure: HypernetworkStructure) -> None:
    activated = structure.activation != LINEAR and structure.activate_output
    reasons = {
        "a layer norm looks at all units together": structure.layer_norm,
        "skip connections tie the units to the context": structure.skip_connection,
        "the last layer is activated": activated,
        f"{structure.activation} looks at all units together": structure.activation in MIXING,
    }
    for reason, holds in reasons.items():
        if holds:
            raise RefusedInput(f"{reason}: such nets have no sum in one net", mend=_ATTACH)


def _multiple(multiples: Sequence[int | float], widths: Sequence[int]) -> int | float:
    """A multiple with room for the units of all; sums of fractions may be a rounding short of it."""
    total = sum(multiples)
    while any(int(width * total) < sum(int(width * one) for one in multiples) for width in widths):
        total = math.nextafter(total, math.inf)
    return total


def _beside(parts: Sequence[Part], net: Net, layer: int, role: Role, size: Shape) -> Tensor:
    """One tensor: each part's block behind those of the parts before, the outputs of the last layer added up."""
    made = torch.zeros(size, dtype=torch.float64)
    key = net.key("linear", layer, role)
    rows, columns = (_offsets(parts, net.width, boundary) for boundary in (layer + 1, layer))
    for part, *corner in zip(parts, rows, columns, strict=True):
        if key in part.adapter.tensors:
            block = deltas.tensor(part.adapter.tensors[key])
            place = tuple(slice(start, start + length) for start, length in zip(corner, block.shape, strict=False))
            made[place] += block * (part.weight if _is_end(part, layer + 1) else 1)
    return made


def _offsets(parts: Sequence[Part], width: int, boundary: int) -> list[int]:
    """Where the units of each part begin between two layers; the context and what is made of it belong to all."""
    if _is_end(parts[0], boundary):
        return [0] * len(parts)
    return list(accumulate((sizes(part.structure, width)[boundary] for part in parts[:-1]), initial=0))


def _is_end(part: Part, boundary: int) -> bool:
    return boundary in (0, len(part.structure.layer_structure) - 1)


def _slopes(parts: Sequence[Part], structure: HypernetworkStructure, net: Net) -> dict[Key, LazyTensor]:
    """PReLU's, which all units of a layer share."""
    made: dict[Key, LazyTensor] = {}
    if structure.activation != "prelu":
        return made
    for stage in stages(structure):
        if stage.part == "activation":
            key = net.key("activation", stage.number, Role.LAYER_WEIGHT)
            held = [part.adapter.tensors[key] for part in parts if key in part.adapter.tensors]
            if len({float(deltas.tensor(slope)) for slope in held}) > 1:
                raise RefusedInput(
                    f"{key.module}: the slopes of PReLU differ: such nets have no sum in one net", mend=_ATTACH
                )
            made[key] = held[0]
    return made


def chain(parts: Sequence[Part]) -> Adapter:
    """What A1111 does with several linear hypernetworks, each at its weight, as one layer. RefusedInput for others."""
    for part in parts:
        require_linear(part.adapter, "--method sum adds up nets of one activation; A1111 and attach() chain any.")
    widths = list(dict.fromkeys(width for part in parts for width in part.structure.widths))
    structure = HypernetworkStructure(widths=widths, layer_structure=[1, 1])
    tensors: dict[Key, LazyTensor] = {}
    for net in nets(structure):
        for role, shape in ((Role.LAYER_WEIGHT, (net.width, net.width)), (Role.LAYER_BIAS, (net.width,))):
            tensors[net.key("linear", 0, role)] = computed(_dtype(parts), shape, partial(_chained, parts, net, role))
    return _made(parts, structure, tensors)


def _chained(parts: Sequence[Part], net: Net, role: Role) -> Tensor:
    found = chained(affine(part.adapter, net, part.weight) for part in parts if net.width in part.structure.widths)
    return found.matrix if role is Role.LAYER_WEIGHT else found.bias


def _dtype(parts: Sequence[Part]) -> str:
    return "F64" if any(t.dtype == "F64" for part in parts for t in part.adapter.tensors.values()) else "F32"


def _made(parts: Sequence[Part], structure: HypernetworkStructure, tensors: dict[Key, LazyTensor]) -> Adapter:
    known = architectures_of(structure.widths)
    kind = parts[0].adapter.kind
    return Adapter(kind, known[0] if known else "", tensors, with_structure({}, structure))
