"""Best approximations of a given rank (Eckart and Young, 1936), without ever forming a product that is known by its factors."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from adapterhub.adapter import Role
from adapterhub.errors import BrokenAdapter
from adapterhub.tensors import Shape


class Pair(NamedTuple):
    """up (O, r) and down (r, I·k·k); `row` is the shape of one row of W; `stored` are the factors that the file holds as they are."""

    up: Tensor
    down: Tensor
    row: Shape
    stored: frozenset[Role] = frozenset()

    @property
    def rank(self) -> int:
        return self.up.shape[1]


class Truncated(NamedTuple):
    """up (O, r) and down (r, I·k·k), each with a root of the singular values; `error` is ‖rest‖ / ‖all‖ (Frobenius)."""

    up: Tensor
    down: Tensor
    error: float


class Svd(NamedTuple):
    """up (O, k) · diag(sizes) · down (k, C), the largest first; `rest` is the squared norm of what these k leave out."""

    up: Tensor
    sizes: Tensor
    down: Tensor
    rest: float = 0.0

    def errors(self) -> Tensor:
        """What a rank of 0, 1, … k leaves out: ‖rest‖ / ‖all‖; zeros where there is nothing at all."""
        squares = torch.cat([self.sizes.square(), self.sizes.new_tensor([self.rest])])
        left = squares.flip(0).cumsum(0).flip(0)
        return (left / left[0]).sqrt() if left[0] else left

    def cut(self, rank: int) -> Truncated:
        """The best approximation by `rank`."""
        roots = self.sizes[:rank].sqrt()
        error = float(self.errors()[min(rank, len(self.sizes))])
        return Truncated(self.up[:, :rank] * roots, roots[:, None] * self.down[:rank], error)


def of_matrix(matrix: Tensor) -> Svd:
    """That of a matrix (O, C)."""
    return Svd(*_svd(matrix))


def of_product(up: Tensor, down: Tensor) -> Svd:
    """That of up (O, r) · down (r, C): QR of both, then the SVD of a matrix no larger than (r, r)."""
    left, upper = torch.linalg.qr(up)
    right, lower = torch.linalg.qr(down.T)
    inner_up, sizes, inner_down = _svd(upper @ lower.T)
    return Svd(left @ inner_up, sizes, inner_down @ right.T)


def of_kronecker(first: Tensor, second: Tensor, rank: int | None = None) -> Svd:
    """The `rank` largest of kron(first, second), or all: its singular triples are the products of theirs."""
    up1, sizes1, down1 = _svd(first)
    up2, sizes2, down2 = _svd(second)
    sizes, order = torch.outer(sizes1, sizes2).flatten().sort(descending=True, stable=True)
    i, j = order[:rank] // len(sizes2), order[:rank] % len(sizes2)
    up = (up1[:, None, i] * up2[None, :, j]).flatten(0, 1)
    down = (down1[i, :, None] * down2[j, None, :]).flatten(1)
    rest = math.fsum(sizes[len(i) :].square().tolist())
    return Svd(up, sizes[: len(i)], down, rest)


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if not matrix.isfinite().all():
        raise BrokenAdapter("values are not finite, and such a change has no low-rank approximation")
    up, sizes, down = torch.linalg.svd(matrix, full_matrices=False)
    return up, sizes, down
