"""(IA)³: every row or every column of W times a number (Liu et al., 2022)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from adapterhub.adapter import Role
from adapterhub.algorithms import scales_input
from adapterhub.operations.lora.deltas.base import Relative, channels
from adapterhub.operations.lora.shapes import ia3_on_input

R = Role


class IA3(Relative):
    """W′ = W ∘ (1 + w), along the input where ON_INPUT says so, else along the output (LyCORIS, modules/ia3.py).

    alpha scales nothing, and the bias stays.
    """

    name: ClassVar[str] = "ia3"

    def _changed(self, weight: Tensor) -> Tensor:
        return _times(weight, 1 + self.value(R.IA3_WEIGHT), on_input=ia3_on_input(self.tensors))


class MultiplierIA3(Relative):
    """W′ = W ∘ l (PEFT, tuners/ia3/layer.py): (O, 1) on the output axis, where l multiplies the bias too, or (1, I).

    A convolution's l is (1, C, 1, 1) on both axes. Where C is both O and I it is taken for the output, as every module
    that PEFT was not told to be feed-forward.
    """

    name: ClassVar[str] = "ia3"

    def bias(self, base: Tensor | None = None) -> Tensor | None:
        """b ∘ (l − 1), where `base` gives b and l runs along the output."""
        stored = super().bias()
        if base is None or self._on_input(base.numel()):
            return stored
        multiplier = self.value(R.IA3_L).flatten()
        scaled = base.detach().to(multiplier).flatten() * (multiplier - 1)
        return scaled if stored is None else scaled + stored

    def _changed(self, weight: Tensor) -> Tensor:
        return _times(weight, self.value(R.IA3_L), on_input=self._on_input(len(weight)))

    def _on_input(self, outputs: int) -> bool:
        return scales_input(self.tensors[R.IA3_L], outputs)


def _times(weight: Tensor, multiplier: Tensor, *, on_input: bool) -> Tensor:
    axis = (1, -1, 1) if on_input else (-1, 1, 1)
    return (channels(weight) * multiplier.reshape(axis)).reshape(weight.shape)
