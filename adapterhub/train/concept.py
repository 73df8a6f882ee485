"""What a step draws from: latents of pictures of one thing, with a caption each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adapterhub.errors import RefusedInput
from adapterhub.train.base import Base
from adapterhub.train.conditioning import longest
from adapterhub.train.pictures import Picture, corner, square
from adapterhub.train.randomness import generator


class Draw(NamedTuple):
    """One sample of a step's batch."""

    concept: Concept
    picture: int
    flipped: bool
    where: float
    caption: str
    latent_noise: Tensor
    """ε of the VAE's posterior (C, h, w)."""
    noise: Tensor
    """ε that the model is to predict."""
    t: int
    weight: float
    """Its share of the loss."""


@dataclass
class Concept:
    """Pictures, each scaled to cover a sample's square, the captions that each can have, and what the mean of their losses counts for.

    `name` makes its randomness its own: two concepts draw independent t and ε (Ruiz et al. 2023, equation 2).
    """

    name: str
    pictures: Sequence[Picture]
    captions: Sequence[Sequence[str]]
    weight: float = 1.0
    _moments: dict[tuple[int, bool], tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def told(self) -> dict[str, Any]:
        """How many pictures, and a digest of them and their captions."""
        digest = hashlib.sha256()
        for picture, texts in zip(self.pictures, self.captions, strict=True):
            digest.update(hashlib.sha256(picture.image.tobytes()).digest())
            digest.update(json.dumps([picture.image.size, picture.size, *texts]).encode())
        return {"pictures": len(self.pictures), "sha256": digest.hexdigest()}

    def draws(self, sampling: Sampling, step: int) -> Iterator[Draw]:
        """The samples of a step: every picture comes once before one comes again, in an order that is new in every epoch."""
        size, count = sampling.batch, len(self.pictures)
        chance = generator(sampling.seed, f"{self.name}/choice", step)
        numbers = torch.rand(size, 4, generator=chance, dtype=torch.float64)
        noises = torch.randn(2, size, *sampling.shape, generator=generator(sampling.seed, f"{self.name}/noise", step))
        offsets = torch.randn(
            size, sampling.shape[0], 1, 1, generator=generator(sampling.seed, f"{self.name}/offset", step)
        )
        times = torch.randint(sampling.length, (size,), generator=generator(sampling.seed, f"{self.name}/time", step))
        for row in range(size):
            flip, where, caption, dropped = numbers[row].tolist()
            picture = self._picture(sampling.seed, step * size + row, count)
            texts = self.captions[picture]
            yield Draw(
                self, picture, sampling.flip and flip < 0.5, where if sampling.random_crop else 0.5,
                "" if dropped < sampling.caption_dropout else texts[int(caption * len(texts))],
                noises[0, row], noises[1, row] + sampling.noise_offset * offsets[row], int(times[row]), self.weight / size,
            )  # fmt: skip

    def _picture(self, seed: int, position: int, count: int) -> int:
        epoch, place = divmod(position, count)
        return int(torch.randperm(count, generator=generator(seed, f"{self.name}/order", epoch))[place])

    def latents(self, draw: Draw, encoder: Encoder) -> Tensor:
        """A sample of the VAE's posterior (C, h, w); its mean and σ are kept, unless the crop is new each time."""
        if encoder.sampling.random_crop:
            mean, std = self._encoded(draw.picture, draw.flipped, draw.where, encoder)
        else:
            key = (draw.picture, draw.flipped)
            if key not in self._moments:
                self._moments[key] = self._encoded(*key, 0.5, encoder)
            mean, std = self._moments[key]
        return (mean + std * draw.latent_noise - encoder.shift) * encoder.factor

    def _encoded(self, picture: int, flipped: bool, where: float, encoder: Encoder) -> tuple[Tensor, Tensor]:
        side = encoder.sampling.side
        pixels = square(self.pictures[picture].image, side, where)
        return encoder(pixels.flip(-1) if flipped else pixels)

    def sizes(self, draw: Draw, side: int) -> tuple[float, ...]:
        """What SDXL is told of a sample: height and width of the picture as it was, top and left of the cut in the picture as it
        was scaled (and mirrored), height and width of the cut (Podell et al. 2023, 2.2).
        """
        picture = self.pictures[draw.picture]
        left, top = corner(picture.image, side, draw.where)
        if draw.flipped:
            left = picture.image.width - side - left
        width, height = picture.size
        return tuple(map(float, (height, width, top, left, side, side)))


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn; `shape` (C, h, w) is that of latents, `length` the number of timesteps."""

    seed: int
    batch: int
    side: int
    shape: tuple[int, int, int]
    length: int
    flip: bool = False
    random_crop: bool = False
    caption_dropout: float = 0.0
    noise_offset: float = 0.0


@dataclass(frozen=True)
class Encoder:
    """Pixels (3, s, s) → mean and σ of the VAE's posterior, on the CPU. Latents are (z − shift) · factor (the VAE's config)."""

    vae: Any
    device: torch.device
    sampling: Sampling

    @property
    def factor(self) -> float:
        return float(self.vae.config.scaling_factor)

    @property
    def shift(self) -> float:
        return float(getattr(self.vae.config, "shift_factor", None) or 0.0)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(pixels[None].to(self.device, self.vae.dtype)).latent_dist
        return posterior.mean[0].float().cpu(), posterior.std[0].float().cpu()


def sampling_of(settings: Any, base: Base) -> Sampling:
    """What `settings` say about samples, for `base`. RefusedInput where the side is no multiple of a latent's."""
    side = settings.resolution or base.unet.config.sample_size * base.scale
    if side % base.scale:
        raise RefusedInput(f"resolution is {side}, and this model's latents are {base.scale} pixels wide",
                           mend=f"Give a multiple of {base.scale}.")  # fmt: skip
    shape = (base.vae.config.latent_channels, side // base.scale, side // base.scale)
    return Sampling(settings.seed, settings.batch, side, shape, base.scheduler.config.num_train_timesteps, settings.flip,
                    settings.crop == "random", settings.caption_dropout, settings.noise_offset)  # fmt: skip


def ensure_short(concept: Concept, base: Base) -> None:
    """RefusedInput for captions whose end the text encoder would not see."""
    limit = longest(list(base.tokenizers.values()))
    for picture, texts in zip(concept.pictures, concept.captions, strict=True):
        for text in texts:
            counts = [len(tokenizer.tokenize(base.expanded(text))) for tokenizer in base.tokenizers.values()]
            if max(counts) > limit:
                raise RefusedInput(f"{picture.name}: its caption has {max(counts)} tokens, and the text encoder reads {limit}",
                                   mend="Shorten the caption: its end would count for nothing.")  # fmt: skip
