"""DoRA: direction by any additive change, magnitude on its own (Liu et al., 2024)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from adapterhub.adapter import Role
from adapterhub.errors import BrokenAdapter
from adapterhub.operations.lora.deltas.base import Additive, Relative, channels
from adapterhub.tensors import Shape

_EPSILON = torch.finfo(torch.float64).eps


class DoRA(Relative):
    """W′ = g · V / ‖V‖, V = W + ΔW, the norm over all axes but the one that g lies on.

    LyCORIS adds its dtype's epsilon to the norm (functional/general.py), PEFT nothing (tuners/lora/dora.py); here it is
    float64's. Any strength but 1 follows A1111 and ComfyUI, W + m · (W′ − W): LyCORIS' own is W + ΔW at 0.
    """

    name: ClassVar[str] = "dora"

    def __init__(self, direction: Additive) -> None:
        super().__init__(direction.tensors)
        self.direction = direction

    def bias(self, base: Tensor | None = None) -> Tensor | None:
        return self.direction.bias(base)

    def _changed(self, weight: Tensor) -> Tensor:
        magnitude = self.value(Role.DORA_SCALE)
        turned = channels(self.direction.apply(weight))
        rows = on_output(magnitude.shape, weight.shape)
        norm: Tensor = torch.linalg.vector_norm(turned, dim=(1, 2) if rows else (0, 2), keepdim=True)
        return (magnitude.reshape(norm.shape) * turned / (norm + _EPSILON)).reshape(weight.shape)


def on_output(magnitude: Shape, weight: Shape) -> bool:
    """Whether a magnitude lies on the output axis, by its own shape: (O, 1, …) or (O,) does, (1, I, …) does not.

    PEFT's (1, O, 1, 1) of a convolution counts as the output axis where O is not I. BrokenAdapter where nothing fits.
    """
    outputs, inputs = weight[:2]
    size = max(magnitude, default=1)
    ones = sum(side == 1 for side in magnitude) >= len(magnitude) - 1
    if ones and size == outputs and magnitude[:1] == (outputs,):
        return True
    if ones and size == inputs and magnitude[:1] == (1,):
        return False
    if ones and size == outputs and magnitude[:2] == (1, outputs):
        return True
    raise BrokenAdapter(f"a magnitude of shape {list(magnitude)} lies on neither axis of a weight {list(weight)}")
