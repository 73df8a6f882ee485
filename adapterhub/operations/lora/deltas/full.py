"""Changes that are stored as they are: full differences, replacements and norms. No alpha scales them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from adapterhub.adapter import Role
from adapterhub.operations.lora.deltas.base import Additive, Relative

R = Role


class Full(Additive):
    """ΔW = DIFF; nothing, a 0-d zero, where only the bias changes."""

    name: ClassVar[str] = "full"

    def apply(self, weight: Tensor, strength: float = 1.0) -> Tensor:
        return super().apply(weight, strength) if R.DIFF in self else weight.detach().to(torch.float64)

    def _matrix(self) -> Tensor:
        return self.value(R.DIFF) if R.DIFF in self else torch.zeros((), dtype=torch.float64)


class Replacement(Relative):
    """W′ = SET_WEIGHT (ComfyUI, lora.py), which ignores the strength; here it is a way towards it, as for all others."""

    name: ClassVar[str] = "full"

    def _changed(self, weight: Tensor) -> Tensor:
        return self.value(R.SET_WEIGHT).reshape(weight.shape)


class Norm(Additive):
    """Δγ = W_NORM and Δβ = B_NORM of a normalisation (LyCORIS, modules/norms.py)."""

    name: ClassVar[str] = "norm"

    def bias(self, base: Tensor | None = None) -> Tensor | None:
        return self.value(R.B_NORM).flatten() if R.B_NORM in self else super().bias()

    def _matrix(self) -> Tensor:
        return self.value(R.W_NORM) if R.W_NORM in self else torch.zeros_like(self.value(R.B_NORM))
