"""LoKr: a Kronecker product whose factors may themselves be low-rank."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from adapterhub.adapter import Role
from adapterhub.operations.deltas import truncation
from adapterhub.operations.deltas.base import Additive
from adapterhub.operations.deltas.loha import cored
from adapterhub.operations.deltas.truncation import Pair, Truncated
from adapterhub.tensors import Shape

R = Role


class LoKr(Additive):
    """ΔW = s · kron(w1, w2) (LyCORIS, modules/lokr.py: forward).

    s = alpha / r where at least one of the two is a product, r the rank of w2's, else of w1's; where both are full, alpha
    is ignored, as LyCORIS, ComfyUI and A1111 do. A kernel belongs to w2: ΔW[(o₁o₂), (i₁i₂), …] = w1[o₁,i₁] · w2[o₂,i₂,…].
    """

    name: ClassVar[str] = "lokr"

    def pair(self) -> Pair:
        """kron(a₁, a₂) · kron(b₁, b₂) for w = a·b: rank r₁·r₂, where a full w counts as w·I or I·w, whichever is smaller."""
        with self.fitting():
            (a1, b1, (columns1,)), (a2, b2, (columns2, *kernel)) = self._halves()
            return Pair(torch.kron(a1, a2), torch.kron(b1, b2), (columns1 * columns2, *kernel))

    def _matrix(self) -> Tensor:
        (a1, b1, (columns1,)), (a2, b2, (columns2, *kernel)) = self._halves()
        return torch.kron(a1 @ b1, a2 @ b2 * self.scale).reshape(-1, columns1 * columns2, *kernel)

    def _truncated(self, rank: int) -> Truncated:
        (a1, b1, _), (a2, b2, _) = self._halves()
        return truncation.of_kronecker(a1 @ b1, a2 @ b2 * self.scale, rank)

    def _halves(self) -> tuple[tuple[Tensor, Tensor, Shape], tuple[Tensor, Tensor, Shape]]:
        core = self.value(R.LOKR_T2) if R.LOKR_T2 in self else None
        return (self._half(R.LOKR_W1, R.LOKR_W1_A, R.LOKR_W1_B, None),
                self._half(R.LOKR_W2, R.LOKR_W2_A, R.LOKR_W2_B, core))  # fmt: skip

    def _half(self, full: Role, a: Role, b: Role, core: Tensor | None) -> tuple[Tensor, Tensor, Shape]:
        """Two factors of w1 or w2, (o, r) and (r, i·k·k), and the shape of its rows."""
        if full not in self:
            return cored(self.value(a), self.value(b), core)
        whole = self.value(full)
        matrix = whole.flatten(1)
        rows, columns = matrix.shape
        one = torch.eye(min(rows, columns), dtype=matrix.dtype)
        return (*((one, matrix) if rows < columns else (matrix, one)), tuple(whole.shape[1:]))
