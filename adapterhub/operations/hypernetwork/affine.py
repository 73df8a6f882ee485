"""Nets that are a matrix and a bias: y = x + H·x + b, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from adapterhub.adapter import Adapter
from adapterhub.errors import RefusedInput
from adapterhub.layouts.hypernetwork.structure import Net, is_linear, structure_of
from adapterhub.operations.hypernetwork.network import Network
from adapterhub.operations.lora import deltas
from adapterhub.tensors import LazyTensor, Shape


class Affine(NamedTuple):
    """What a net adds to a context x of its width w: `matrix` (w, w) times x, and `bias` (w,)."""

    matrix: Tensor
    bias: Tensor

    def then(self, other: Affine) -> Affine:
        """Both, one after the other: (I + H₂)(I + H₁) and what becomes of the biases."""
        return Affine(
            self.matrix + other.matrix + other.matrix @ self.matrix,
            self.bias + other.bias + other.matrix @ self.bias,
        )


def affine(adapter: Adapter, net: Net, strength: float = 1.0) -> Affine:
    """A linear net at `strength`, from what it makes of the zero and of the unit vectors."""
    network = Network(adapter, net, torch.float64)
    bias = network.change(torch.zeros(1, net.width, dtype=torch.float64))
    matrix = (network.change(torch.eye(net.width, dtype=torch.float64)) - bias).T
    return Affine(matrix * strength, bias[0] * strength)


def chained(nets: Iterable[Affine]) -> Affine:
    """Several nets of one width applied in order, as A1111 applies several hypernetworks."""
    return reduce(Affine.then, nets)


def require_linear(adapter: Adapter, mend: str) -> None:
    """Raises RefusedInput where a hypernetwork is no matrix and bias."""
    structure = structure_of(adapter)
    if not is_linear(structure):
        why = f"an activation ({structure.activation})" if structure.activation != "linear" else "a layer norm"
        raise RefusedInput(f"this hypernetwork has {why}: no change of weights does the same", mend=mend)


def computed(dtype: str, shape: Shape, value: Callable[[], Tensor]) -> LazyTensor:
    """A tensor that is computed when it is written, and rounded once; one at a time is held."""

    def chunks() -> Iterable[bytes]:
        yield deltas.lazy(value(), dtype).read()

    return LazyTensor(dtype, shape, chunks)
