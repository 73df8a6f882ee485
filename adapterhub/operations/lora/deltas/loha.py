"""LoHa: the elementwise product of two low-rank matrices."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from adapterhub.adapter import Role
from adapterhub.operations.lora.deltas.base import Additive
from adapterhub.operations.lora.deltas.truncation import Pair
from adapterhub.tensors import Shape

R = Role


class LoHa(Additive):
    """ΔW = alpha / r · (w1_a·w1_b) ∘ (w2_a·w2_b) (Hyeon-Woo et al., 2021: FedPara; LyCORIS, modules/loha.py: forward).

    With cores, w_b stands for Σⱼ t[i,j,…] · w_b[j,q], and w_a is stored transposed. LyCORIS' merge path applies alpha / r
    twice (4.1.3); its forward, which this follows, once.
    """

    name: ClassVar[str] = "loha"

    def pair(self) -> Pair:
        """Rank r²: the Khatri-Rao products of the rows of w1_a, w2_a and of the columns of w1_b, w2_b."""
        with self.fitting():
            (a1, b1, row), (a2, b2, _) = self._halves()
            up = torch.einsum("oi,oj->oij", a1, a2).flatten(1)
            down = torch.einsum("ic,jc->ijc", b1, b2).flatten(0, 1)
            return Pair(up, down, row)

    def _matrix(self) -> Tensor:
        (a1, b1, row), (a2, b2, _) = self._halves()
        return ((a1 @ b1) * (a2 @ b2) * self.scale).reshape(-1, *row)

    def _halves(self) -> tuple[tuple[Tensor, Tensor, Shape], tuple[Tensor, Tensor, Shape]]:
        return (self._half(R.HADA_W1_A, R.HADA_W1_B, R.HADA_T1), self._half(R.HADA_W2_A, R.HADA_W2_B, R.HADA_T2))

    def _half(self, a: Role, b: Role, core: Role) -> tuple[Tensor, Tensor, Shape]:
        """(O, r), (r, C) and the shape of a row."""
        return cored(self.value(a), self.value(b), self.value(core) if core in self else None)


def cored(a: Tensor, b: Tensor, core: Tensor | None) -> tuple[Tensor, Tensor, Shape]:
    """The two factors of one low-rank matrix, (O, r) and (r, C), and the shape of its rows.

    With a `core` (r, r, k, k), whose first axis meets `a`, `a` is (r, O) and `b` (r, I). A factor that has no kernel may be
    stored as if it had one of a single position.
    """
    a = a.reshape(a.shape[:2])
    if core is not None:
        b = torch.einsum("ij...,jq->iq...", core, b.reshape(b.shape[:2]))
        a, b = a.T.contiguous(), b.contiguous()  # torch.kron insists
    return a, b.flatten(1), tuple(b.shape[1:])
