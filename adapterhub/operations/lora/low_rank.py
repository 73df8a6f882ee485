"""How many singular values are kept, and a randomised decomposition for matrices that an exact one takes long for."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from adapterhub.errors import UsageError
from adapterhub.operations.lora.deltas import truncation
from adapterhub.operations.lora.deltas.truncation import Svd

_FIRST = 48
"""Directions that are looked for first, where a tolerance says how many there have to be."""
_MORE = 10
"""Directions beyond those that are asked for (Halko et al., 2011, section 4.2: 5 or 10)."""
_ROUNDS = 3
_SMALL = 4
"""A matrix is decomposed exactly where its shorter side is less than so many times the directions asked for."""


class Bound(NamedTuple):
    """What an approximation is allowed: at most `rank`, or at most `tolerance`, ‖rest‖ / ‖all‖ (Frobenius)."""

    rank: int | None = None
    tolerance: float | None = None

    def of(self, svd: Svd) -> int:
        """The smallest rank that keeps to it: 1 at least, for no reader takes a rank of 0."""
        if self.rank is not None:
            return min(self.rank, len(svd.sizes))
        enough = (svd.errors() <= (self.tolerance or 0.0)).nonzero()
        return max(1, int(enough[0])) if len(enough) else len(svd.sizes)


def bound(rank: int | None, tolerance: float | None) -> Bound | None:
    """The one that is given; None where neither is. UsageError for both, or for what nothing keeps to."""
    if rank is None and tolerance is None:
        return None
    if rank is not None and tolerance is not None:
        raise UsageError("a rank and a tolerance were given", mend="Give one of --rank and --tolerance.")
    if rank is not None and rank < 1:
        raise UsageError(f"a rank of {rank} holds nothing", mend="Give a rank of 1 or more.")
    if tolerance is not None and not 0 <= tolerance < 1:
        raise UsageError(f"{tolerance} is no relative error", mend="Give a tolerance from 0 to 1, such as 0.05.")
    return Bound(rank, tolerance)


def decomposed(matrix: Tensor, within: Bound, seed: int = 0) -> Svd:
    """As many singular values and vectors of `matrix` (O, C) as `within` asks for, or more.

    Exact where the matrix is small for that; else randomised, with a fixed seed, whose `rest` is what it really leaves out.
    """
    wanted = (within.rank or _FIRST) + _MORE
    while _SMALL * wanted < min(matrix.shape):
        found = randomised(matrix, wanted, seed)
        if within.rank is not None or found.errors()[-1] <= (within.tolerance or 0.0):
            return found
        wanted *= 2
    return truncation.of_matrix(matrix)


def randomised(matrix: Tensor, size: int, seed: int = 0) -> Svd:
    """The `size` largest singular values and vectors, nearly: a random start, three rounds of subspace iteration.

    Halko, Martinsson and Tropp, 2011: algorithms 4.4 and 5.1. After q rounds the expected error, in the spectral norm, is
    within (1 + 4 · sqrt(2 · min(O, C) / (k − 1)))^(1 / (2q + 1)) of the best by k = size − 10 (corollary 10.10, roughly). The
    directions are looked for in float32; everything that is returned is float64, and so is the measure of what is left out.
    """
    single = matrix.to(torch.float32)
    generator = torch.Generator().manual_seed(seed)
    basis = single @ torch.randn(matrix.shape[1], size, generator=generator)
    for _ in range(_ROUNDS):
        basis = torch.linalg.qr(single.T @ torch.linalg.qr(basis).Q).Q
        basis = single @ basis
    left = torch.linalg.qr(basis.to(torch.float64)).Q
    up, sizes, down = truncation.of_matrix(left.T @ matrix)[:3]
    rest = float(torch.linalg.vector_norm(matrix)) ** 2 - math.fsum(sizes.square().tolist())
    return Svd(left @ up, sizes, down, max(rest, 0.0))
