"""Fitting: for each attention the matrix and bias that come nearest, by least squares, to a net that is not linear.

What counts is what contexts look like there: rows γ·z + β, where z are layer norms of standard normal vectors, and γ and β are
the layer norm in front of the attention: the block's `norm1` for self-attention, the text encoder's last one for
cross-attention if it is as wide. Real contexts lie elsewhere in part, and the error on them differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from adapterhub.adapter import Adapter, Module
from adapterhub.documents import Problem
from adapterhub.layouts.hypernetwork.structure import Net, nets, structure_of
from adapterhub.operations.base import Base
from adapterhub.operations.hypernetwork.affine import Affine
from adapterhub.operations.hypernetwork.fold import Attention, attentions_of
from adapterhub.operations.hypernetwork.network import Network
from adapterhub.operations.problems import warning

SEED = 0
ROWS_PER_WIDTH, HELD_OUT = 4, 1024
_RIDGE = 1e-9
"""Added to the squares, as a part of their mean: rows of a layer norm lie in a plane."""
_ENCODERS = ("text_encoder", "text_encoder_2")
_KEPT = 8
"""Fits that are kept: those of the block that is written."""


class Fit(NamedTuple):
    """A fit, and how far it is off on rows that it has not seen: ‖f - fit‖ / ‖f‖."""

    affine: Affine
    residual: float


class Fits:
    """The fits of one hypernetwork on `base`, made when they are asked for."""

    def __init__(self, adapter: Adapter, base: Base) -> None:
        self.base = base
        self._networks = {net: Network(adapter, net) for net in nets(structure_of(adapter))}
        self._fit = lru_cache(_KEPT)(self._made)

    def affine(self, attention: Attention, net: Net) -> Affine:
        """What is nearest to `net` in front of an attention."""
        return self._fit(self._norm(attention), net).affine

    def residuals(self) -> list[float]:
        """The error of every fit that is needed, each once."""
        needed = [(self._norm(attention), net) for attention in attentions_of(self.base)
                  for net in self._networks if net.width == attention.width]  # fmt: skip
        return [self._fit(place, net).residual for place, net in dict.fromkeys(needed)]

    def _made(self, place: Module | None, net: Net) -> Fit:
        rows = self._rows(place, net.width)
        seen, unseen = rows[:-HELD_OUT], rows[-HELD_OUT:]
        network = self._networks[net]
        found = _least_squares(seen, network.change(seen.float()).double())
        wanted = network.change(unseen.float()).double()
        off = torch.linalg.vector_norm(unseen @ found.matrix.T + found.bias - wanted)
        size = torch.linalg.vector_norm(wanted)
        return Fit(found, float(off / size) if size else 0.0)

    def _rows(self, place: Module | None, width: int) -> Tensor:
        rows = _normal(ROWS_PER_WIDTH * width + HELD_OUT, width)
        if place is None:
            return rows
        gamma, beta = self.base.value(place), self.base.value(place, bias=True)
        assert gamma is not None
        return rows * gamma + (0 if beta is None else beta)

    def _norm(self, attention: Attention) -> Module | None:
        """The layer norm in front of an attention; None where none is known that is as wide."""
        component, path = attention.path
        block, _, name = path.rpartition(".")
        places = [Module(component, f"{block}.norm1")] if name == "attn1" else [
            Module(encoder, "text_model.final_layer_norm") for encoder in _ENCODERS
        ]  # fmt: skip
        known = ((place, self.base.weight(place)) for place in places)
        return next(
            (place for place, weight in known if weight is not None and weight.shape == (attention.width,)), None
        )


@lru_cache(2)
def _normal(count: int, width: int) -> Tensor:
    """Layer norms of standard normal vectors."""
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    return layer_norm(rows, (width,))


def _least_squares(rows: Tensor, wanted: Tensor) -> Affine:
    """The matrix and bias that bring `rows` nearest to `wanted`."""
    middle, target = rows.mean(0), wanted.mean(0)
    centred = rows - middle
    squares = centred.T @ centred
    squares.diagonal().add_(_RIDGE * squares.diagonal().mean())
    matrix = torch.linalg.solve(squares, centred.T @ (wanted - target)).T
    return Affine(matrix, target - matrix @ middle)


def told(residuals: Sequence[float]) -> Problem:
    """What is said of a hypernetwork that was fitted."""
    return warning(
        "fitted", "",
        f"not linear, and fitted by least squares: off by {max(residuals):.3g} of its effect where that is worst, "
        f"{median(residuals):.3g} in the middle, on {HELD_OUT} rows that the fit has not seen. Rows are γ·z + β, z layer norms "
        f"of standard normal vectors (seed {SEED}), γ and β those of norm1 in front of each self-attention and of the text "
        "encoder's final_layer_norm in front of cross-attentions of its width, else 1 and 0.",
        "Look at pictures of both: real contexts are distributed otherwise.",
    )  # fmt: skip
