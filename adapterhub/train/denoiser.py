"""The model as it is trained: a batch in, the loss of each sample out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from adapterhub.train.conditioning import Condition, Conditioner
from adapterhub.train.objective import Objective


class Batch(NamedTuple):
    """Samples: `latents` and `noise` (B, C, h, w), `t` (B,), and what is said of them: the `tokens` of every different caption and
    which of these is each sample's (B,), or conditions that are known.
    """

    latents: Tensor
    noise: Tensor
    t: Tensor
    tokens: Sequence[Tensor] | None
    captions: Tensor
    condition: Condition | None
    sizes: Tensor
    """SDXL's (B, 6): height and width of the original, top and left of the crop, height and width of the target."""


class Denoiser(nn.Module):
    """Everything that is trained, and the losses of a batch (B,). Data-parallel runs wrap this alone, so that UNet, text encoders
    and nets beside them are synchronised alike.
    """

    def __init__(
        self, unet: nn.Module, conditioner: Conditioner, objective: Objective, beside: nn.Module | None
    ) -> None:
        super().__init__()
        self.unet, self.conditioner, self.beside = unet, conditioner, beside
        self.objective = objective

    def forward(self, batch: Batch) -> Tensor:
        condition = batch.condition
        if batch.tokens is not None:  # each caption goes through the encoders once, however many samples have it
            condition = self.conditioner(batch.tokens).of(batch.captions)
        assert condition is not None
        more: dict[str, Any] = {}
        if condition.pooled is not None:
            more["added_cond_kwargs"] = {"text_embeds": condition.pooled, "time_ids": batch.sizes}
        noised = self.objective.noised(batch.latents, batch.noise, batch.t)
        predicted = self.unet(noised, batch.t, condition.states, return_dict=False, **more)[0]
        return self.objective.losses(predicted, batch.latents, batch.noise, batch.t)
