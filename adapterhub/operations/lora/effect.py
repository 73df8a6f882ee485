"""What a LoRA does to one module, as a matrix or as the product that it is; and how far two of them are apart, some rows at a
time, so that no ΔW of a whole module need lie in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from adapterhub.adapter import Module, Role, Roles
from adapterhub.operations.base import Base
from adapterhub.operations.lora import deltas
from adapterhub.operations.lora.deltas.lora import LoRA

_AT_ONCE = 1 << 18
"""Numbers of ΔW that are computed together."""


class Product(NamedTuple):
    """ΔW = up (O, r) · down (r, C), in float64."""

    up: Tensor
    down: Tensor

    @property
    def columns(self) -> int:
        return self.down.shape[1]

    def numel(self) -> int:
        """How many numbers ΔW has."""
        return self.up.shape[0] * self.columns

    def flatten(self) -> Tensor:
        """ΔW as a row of numbers."""
        return (self.up @ self.down).flatten()

    def times(self, factor: float) -> Product:
        return Product(factor * self.up, self.down)


Weight = Tensor | Product


class Effect(NamedTuple):
    """ΔW of one module, as a row of numbers or a product, and Δb; None where it changes neither weight nor bias."""

    weight: Weight | None
    bias: Tensor | None

    def times(self, factor: float) -> Effect:
        """The same at another strength."""
        weight = self.weight.times(factor) if isinstance(self.weight, Product) else _times(self.weight, factor)
        return Effect(weight, _times(self.bias, factor))


def _times(part: Tensor | None, factor: float) -> Tensor | None:
    return None if part is None else factor * part


def effect(module: Module, tensors: Roles, base: Base) -> Effect:
    """What `tensors` do: at a stand-in for the weight, where ΔW depends on that."""
    if Role.VECTORS in tensors or Role.OUTPUT_VECTORS in tensors:
        return Effect(None, None)
    found = deltas.delta(tensors)
    if isinstance(found, LoRA) and (pair := found.pair()) is not None:
        return Effect(Product(found.scale * pair.up, pair.down), found.bias())
    weight = base.stand_in(module, tensors) if found.needs_base else None
    return Effect(deltas.change(tensors, weight).flatten(), found.bias())


def added(weights: Sequence[Weight]) -> Weight:
    """Their sum; of products one of higher rank."""
    if all(isinstance(weight, Product) for weight in weights):
        return Product(torch.cat([w.up for w in weights if isinstance(w, Product)], 1),
                       torch.cat([w.down for w in weights if isinstance(w, Product)]))  # fmt: skip
    return torch.stack([weight.flatten() for weight in weights]).sum(0) if len(weights) > 1 else weights[0]


class Apart(NamedTuple):
    """max|a|, max|b − a|, ‖a‖², ‖b‖², ‖b − a‖² (Frobenius)."""

    largest: float
    furthest: float
    whole: float
    other: float
    off: float


def apart(a: Weight, b: Weight) -> Apart:
    """How far `b` is from `a`, which has as many numbers."""
    columns = next((weight.columns for weight in (a, b) if isinstance(weight, Product)), 1)
    step = max(1, _AT_ONCE // columns) * columns
    buffers = torch.empty(2, min(step, a.numel()), dtype=torch.float64)
    largest, squares = [0.0, 0.0], [0.0, 0.0, 0.0]
    for start in range(0, a.numel(), step):
        end = min(start + step, a.numel())
        x, y = (_part(weight, start, end, out) for weight, out in zip((a, b), buffers, strict=True))
        other = float(y.dot(y))
        gap = torch.sub(y, x, out=buffers[1, : len(x)])
        largest = [
            max(so_far, *map(abs, map(float, part.aminmax()))) for so_far, part in zip(largest, (x, gap), strict=True)
        ]
        here = (float(x.dot(x)), other, float(gap.dot(gap)))
        squares = [so_far + square for so_far, square in zip(squares, here, strict=True)]
    return Apart(*largest, *squares)


def _part(weight: Weight, start: int, stop: int, out: Tensor) -> Tensor:
    if isinstance(weight, Product):
        rows = weight.up[start // weight.columns : stop // weight.columns]
        torch.mm(rows, weight.down, out=out[: stop - start].view(len(rows), -1))
        return out[: stop - start]
    return weight.flatten()[start:stop]
