"""Best approximations of a given rank (Eckart and Young, 1936), without ever forming a product that is known by its factors."""

from __future__ import annotations

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


def of_matrix(matrix: Tensor, rank: int) -> Truncated:
    """`matrix` (O, C) by `rank`."""
    up, sizes, down = _svd(matrix)
    return _cut(up, sizes, down, rank)


def of_product(up: Tensor, down: Tensor, rank: int) -> Truncated:
    """up (O, r) · down (r, C) by `rank`: QR of both, then the SVD of a matrix no larger than (r, r)."""
    left, upper = torch.linalg.qr(up)
    right, lower = torch.linalg.qr(down.T)
    inner_up, sizes, inner_down = _svd(upper @ lower.T)
    return _cut(left @ inner_up, sizes, inner_down @ right.T, rank)


def of_kronecker(first: Tensor, second: Tensor, rank: int) -> Truncated:
    """kron(first, second) by `rank`: its singular triples are the products of theirs."""
    up1, sizes1, down1 = _svd(first)
    up2, sizes2, down2 = _svd(second)
    sizes, order = torch.outer(sizes1, sizes2).flatten().sort(descending=True, stable=True)
    i, j = order[:rank] // len(sizes2), order[:rank] % len(sizes2)
    up = (up1[:, None, i] * up2[None, :, j]).flatten(0, 1)
    down = (down1[i, :, None] * down2[j, None, :]).flatten(1)
    return _cut(up, sizes, down, rank)


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if not matrix.isfinite().all():
        raise BrokenAdapter("values are not finite, and such a change has no low-rank approximation")
    up, sizes, down = torch.linalg.svd(matrix, full_matrices=False)
    return up, sizes, down


def _cut(up: Tensor, sizes: Tensor, down: Tensor, rank: int) -> Truncated:
    roots = sizes[:rank].sqrt()
    whole = float(sizes.norm())
    error = float(sizes[rank:].norm()) / whole if whole else 0.0
    return Truncated(up[:, :rank] * roots, roots[:, None] * down[:rank], error)
