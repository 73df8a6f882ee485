"""LoKr: a Kronecker product whose factors may themselves be low-rank."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from adapterhub.adapter import Role
from adapterhub.operations.lora.deltas import truncation
from adapterhub.operations.lora.deltas.base import Additive
from adapterhub.operations.lora.deltas.loha import cored
from adapterhub.operations.lora.deltas.truncation import Pair, Svd
from adapterhub.tensors import Shape


class _Side(NamedTuple):
    full: Role
    a: Role
    b: Role
    core: Role | None


_LEFT = _Side(Role.LOKR_W1, Role.LOKR_W1_A, Role.LOKR_W1_B, None)
_RIGHT = _Side(Role.LOKR_W2, Role.LOKR_W2_A, Role.LOKR_W2_B, Role.LOKR_T2)


class LoKr(Additive):
    """ΔW = s · kron(w1, w2) (LyCORIS, modules/lokr.py: forward).

    s = alpha / r where at least one of the two is a product, r the rank of w2's, else of w1's; where both are full, alpha
    is ignored, as LyCORIS, ComfyUI and A1111 do. A kernel belongs to w2: ΔW[(o₁o₂), (i₁i₂), …] = w1[o₁,i₁] · w2[o₂,i₂,…].
    """

    name: ClassVar[str] = "lokr"

    def pair(self) -> Pair:
        """kron(a₁, a₂) · kron(b₁, b₂) for w = a·b: rank r₁·r₂, where a full w counts as w·I or I·w, whichever is smaller."""
        with self.fitting():
            a1, b1, (columns1,) = self._factors(_LEFT)
            a2, b2, (columns2, *kernel) = self._factors(_RIGHT)
            return Pair(torch.kron(a1, a2), torch.kron(b1, b2), (columns1 * columns2, *kernel))

    def _matrix(self) -> Tensor:
        w1, (columns1,) = self._whole(_LEFT)
        w2, (columns2, *kernel) = self._whole(_RIGHT)
        return torch.kron(w1, w2 * self.scale).reshape(-1, columns1 * columns2, *kernel)

    def _svd(self, rank: int | None) -> Svd:
        w1, w2 = self._whole(_LEFT)[0], self._whole(_RIGHT)[0]
        return truncation.of_kronecker(w1, w2 * self.scale, rank)

    def _whole(self, side: _Side) -> tuple[Tensor, Shape]:
        """w1 or w2 as a matrix (o, i·k·k), and the shape of its rows."""
        if side.full in self:
            whole = self.value(side.full)
            return whole.flatten(1), tuple(whole.shape[1:])
        a, b, row = self._factors(side)
        return a @ b, row

    def _factors(self, side: _Side) -> tuple[Tensor, Tensor, Shape]:
        """Two factors of it, (o, r) and (r, i·k·k), and the shape of its rows."""
        if side.full in self:
            matrix, row = self._whole(side)
            one = torch.eye(min(matrix.shape), dtype=matrix.dtype)
            return (one, matrix, row) if matrix.shape[0] < matrix.shape[1] else (matrix, one, row)
        core = self.value(side.core) if side.core and side.core in self else None
        return cored(self.value(side.a), self.value(side.b), core)
