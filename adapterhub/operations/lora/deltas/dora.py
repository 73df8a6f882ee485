"""DoRA: direction by any additive change, magnitude on its own (Liu et al., 2024)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from adapterhub.adapter import Role
from adapterhub.errors import BrokenAdapter
from adapterhub.operations.lora.deltas.base import Additive, Relative, channels
from adapterhub.operations.lora.shapes import on_output

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
        if rows is None:
            raise BrokenAdapter(
                f"a magnitude of shape {list(magnitude.shape)} lies on neither axis of a weight {list(weight.shape)}"
            )
        norm: Tensor = torch.linalg.vector_norm(turned, dim=(1, 2) if rows else (0, 2), keepdim=True)
        return (magnitude.reshape(norm.shape) * turned / (norm + _EPSILON)).reshape(weight.shape)
