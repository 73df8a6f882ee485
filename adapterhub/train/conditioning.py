"""What a UNet is told of a caption: the hidden states of its text encoders, and for SDXL a pooled state and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from adapterhub.train.base import Base


class Condition(NamedTuple):
    """`states` (B, tokens, width); `pooled` (B, width) is SDXL's."""

    states: Tensor
    pooled: Tensor | None = None

    def of(self, rows: Tensor) -> Condition:
        """The conditions in these rows, each as often as it stands there."""
        return Condition(self.states[rows], None if self.pooled is None else self.pooled[rows])


class Conditioner(nn.Module):
    """Captions → Condition, by the encoders of `base` as its pipeline uses them: SD 1 and 2 take the last state behind its layer
    norm; SDXL takes the last but one of both, side by side, and pools with the second (Podell et al. 2023, 2.2).
    """

    def __init__(self, base: Base) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(base.encoders)
        self.tokenizers, self.expanded = base.tokenizers, base.expanded
        self.is_xl = base.architecture == "sdxl"
        if self.is_xl:
            _freeze_unseen(base.encoders["text_encoder"])

    def tokens(self, captions: Sequence[str]) -> list[Tensor]:
        """The ids of captions for each encoder, (B, tokens), cut and padded to its length."""
        texts = [self.expanded(caption) for caption in captions]
        return [
            torch.as_tensor(tokenizer(texts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length).input_ids)
            for tokenizer in self.tokenizers.values()
        ]  # fmt: skip

    def forward(self, ids: Sequence[Tensor]) -> Condition:
        """The condition of `tokens`."""
        if not self.is_xl:
            (encoder,), (own,) = self.encoders.values(), ids
            return Condition(encoder(own)[0])
        told: list[Any] = [
            encoder(own, output_hidden_states=True) for encoder, own in zip(self.encoders.values(), ids, strict=True)
        ]
        return Condition(torch.cat([one.hidden_states[-2] for one in told], dim=-1), told[-1].text_embeds)

    @property
    def is_trained(self) -> bool:
        """Whether anything that is trained is inside, so that conditions change from step to step."""
        return any(parameter.requires_grad for parameter in self.parameters())


def _freeze_unseen(encoder: Any) -> None:
    """What comes behind the last state but one has no gradient, and processes that share a model wait for it in vain."""
    model = getattr(encoder, "text_model", encoder)  # which transformers ≥ 5.6 has merged with the encoder
    for part in (model.encoder.layers[-1], model.final_layer_norm):
        part.requires_grad_(False)


def longest(tokenizers: Sequence[Any]) -> int:
    """How many tokens a caption may have, its ends not counted."""
    return int(min(tokenizer.model_max_length for tokenizer in tokenizers)) - 2
