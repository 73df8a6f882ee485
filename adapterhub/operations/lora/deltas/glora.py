"""GLoRA: a low-rank change, and a low-rank change of what W itself passes on (Chavan et al., 2023)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from adapterhub.adapter import Role
from adapterhub.algorithms import old_glora, total_scale
from adapterhub.operations.lora.deltas.base import Relative, channels

R = Role


class GLoRA(Relative):
    """ΔW = alpha / r · (b1·b2 + W·(a1·a2)); before LyCORIS 2.2 alpha / r · (b2·b1 + W·(a2·a1)) (modules/glora.py)."""

    name: ClassVar[str] = "glora"

    def _changed(self, weight: Tensor) -> Tensor:
        a1, a2, b1, b2 = (self.value(role).flatten(1) for role in (R.GLORA_A1, R.GLORA_A2, R.GLORA_B1, R.GLORA_B2))
        if old_glora(self.tensors):
            a1, a2, b1, b2 = a2, a1, b2, b1
        passed = torch.einsum("oik,ij->ojk", channels(weight), a1 @ a2).reshape(weight.shape)
        return weight + float(total_scale(self.tensors)) * ((b1 @ b2).reshape(weight.shape) + passed)
