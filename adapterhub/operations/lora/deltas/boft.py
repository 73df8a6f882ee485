"""BOFT: rotations of butterfly factors, on the output side (LyCORIS) or on the input side (PEFT). Liu et al., 2023."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from adapterhub.adapter import Role
from adapterhub.operations.lora.deltas.base import Relative
from adapterhub.operations.lora.deltas.oft import cayley, rescaled, rotations

R = Role


class BOFT(Relative):
    """W′ = Pₘᵀ·Rₘ·Pₘ ⋯ P₁ᵀ·R₁·P₁ · W, then RESCALE times each row (LyCORIS, functional/boft.py).

    Stage i shuffles the rows so that those 2ⁱ·b/2 apart meet in a block, turns, and puts them back.
    """

    name: ClassVar[str] = "boft"

    def _changed(self, weight: Tensor) -> Tensor:
        stages = rotations(self, len(weight))
        size = stages.shape[-1]
        turned = weight.reshape(len(weight), -1)
        for stage, turns in enumerate(stages):
            apart = 2**stage * size // 2
            met = turned.reshape(-1, 2, apart, turned.shape[1]).transpose(1, 2).reshape(-1, size, turned.shape[1])
            back = (turns @ met).reshape(-1, apart, 2, turned.shape[1]).transpose(1, 2)
            turned = back.reshape(turned.shape)
        return rescaled(self, turned).reshape(weight.shape)


class InputBOFT(Relative):
    """W′ = s ∘ W · Mᵀ, M = Bₘ ⋯ B₁, Bᵢ = Pᵢ·blockdiag(Rᵢ)·Pᵢᵀ, W as (O, I·k·k) (PEFT, tuners/boft/layer.py: merge).

    R = (I−Q)(I+Q)⁻¹ with Q = (X − Xᵀ) / 2. Pᵢ puts the even half-blocks before the odd ones, in chunks of 2ⁱ blocks.
    """

    name: ClassVar[str] = "boft"

    def _changed(self, weight: Tensor) -> Tensor:
        parameters = self.value(R.BOFT_R)
        size = parameters.shape[-1]
        turned = weight.reshape(len(weight), -1)
        for stage, turns in enumerate(cayley((parameters.mT - parameters) / 2)):
            blocks = _shuffled(turned, 2, 2**stage, size).reshape(len(weight), -1, 1, size)
            turned = _shuffled((blocks @ turns.mT).reshape(turned.shape), 2**stage, 2, size)
        if R.BOFT_S in self:
            turned = turned * self.value(R.BOFT_S).reshape(-1, 1)
        return turned.reshape(weight.shape)


def _shuffled(rows: Tensor, outer: int, inner: int, size: int) -> Tensor:
    """The columns of `rows`, half-blocks of `size` seen as (outer, inner), in the order (inner, outer)."""
    if outer == 1 or inner == 1:
        return rows
    return rows.reshape(len(rows), -1, outer, inner, size // 2).transpose(2, 3).flatten(1)
