"""LoRA and LoCon, with what may stand beside them: a tucker core, AdaLoRA's singular values, residuals, a bias."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from adapterhub.adapter import Role
from adapterhub.algorithms import scale_of
from adapterhub.errors import BrokenAdapter
from adapterhub.operations.lora.deltas.base import Additive
from adapterhub.operations.lora.deltas.truncation import Pair

R = Role
RESIDUALS = frozenset({R.RESIDUAL, R.RESIDUAL_INDICES})


class LoRA(Additive):
    """ΔW = s · (B·A + dense residual) + sparse residual, s = alpha / r (Hu et al., 2021).

    With MID, A′[s,i,…] = Σₜ mid[s,t,…] · A[t,i] stands for A (LyCORIS, functional/general.py: tucker_weight_from_conv);
    with ADALORA_E, diag(E)·A does. PEFT divides AdaLoRA's alpha by r + 1e-5, which is left out. The dense residual is
    A1111's (network_lora.py), the sparse one LyCORIS' (extraction with `use_bias`).
    """

    name: ClassVar[str] = "lora"

    def pair(self) -> Pair | None:
        if not RESIDUALS.isdisjoint(self.tensors):
            return None
        with self.fitting():
            return self._pair()

    def bias(self, base: Tensor | None = None) -> Tensor | None:
        """PEFT's bias of B is scaled as B is."""
        stored = super().bias()
        if R.UP_BIAS not in self:
            return stored
        scaled = self.value(R.UP_BIAS).flatten() * float(scale_of(self.tensors))
        return scaled if stored is None else scaled + stored

    def _pair(self) -> Pair:
        down, stored = self.value(R.DOWN), {R.UP, R.DOWN}
        if R.MID in self:
            down = torch.einsum("st...,ti->si...", self.value(R.MID), down.flatten(1))
        if R.ADALORA_E in self:
            down = self.value(R.ADALORA_E).flatten()[(..., *[None] * (down.ndim - 1))] * down
        if R.MID in self or R.ADALORA_E in self:
            stored = {R.UP}
        return Pair(self.flat(R.UP), down.flatten(1), tuple(down.shape[1:]), frozenset(stored))

    def _matrix(self) -> Tensor:
        pair = self._pair()
        product = pair.up @ pair.down
        if R.RESIDUAL in self:
            product = product + self.value(R.RESIDUAL).reshape(product.shape)
        change = product * self.scale
        if R.RESIDUAL_INDICES in self:
            change = change.index_put(self._indices(change), self.value(R.RESIDUAL_VALUES), accumulate=True)
        return change.reshape(-1, *pair.row)

    def _indices(self, change: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns of the sparse residual. BrokenAdapter for one outside of `change`: torch counts -1 from the end."""
        rows, columns = self.value(R.RESIDUAL_INDICES).long()
        for places, length in ((rows, change.shape[0]), (columns, change.shape[1])):
            if bool(((places < 0) | (places >= length)).any()):
                outside = int(places[(places < 0) | (places >= length)][0])
                raise BrokenAdapter(f"an index of the sparse residual, {outside}, lies outside of {list(change.shape)}",
                                    mend="The file is damaged: get it again.")  # fmt: skip
        return rows, columns
