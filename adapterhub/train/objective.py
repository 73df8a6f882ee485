"""What all four trainers minimise: the error of the predicted noise (or velocity) of noised latents.

    L = E ‖ε − ε_θ(z_t, t, c(y))‖²,   z_t = √ᾱ_t z₀ + √(1 − ᾱ_t) ε        Rombach et al. 2022, equation 3; Ho et al. 2020, equation 14

v-prediction: √ᾱ_t ε − √(1 − ᾱ_t) z₀ in the place of ε (Salimans and Ho 2022, appendix D). Losses are per sample, so that weights
of all kinds (min-SNR, prior preservation, the end of an uneven batch) are one multiplication.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adapterhub.documents import TrainingSettings
from adapterhub.errors import UsageError


@dataclass(frozen=True)
class Objective:
    """`signal` is ᾱ_t for every t, float32 (T,); `gamma` is that of min-SNR, None for no weights."""

    signal: Tensor
    velocity: bool = False
    gamma: float | None = None

    @property
    def length(self) -> int:
        """T, the number of timesteps."""
        return len(self.signal)

    def noised(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """z_t of latents (B, C, h, w)."""
        kept, lost = self._roots(t, latents.ndim)
        return kept * latents + lost * noise

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the model is to predict."""
        kept, lost = self._roots(t, latents.ndim)
        return kept * noise - lost * latents if self.velocity else noise

    def losses(self, predicted: Tensor, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The loss of each sample (B,), in float32: its mean square error, times its min-SNR weight."""
        error = (predicted.float() - self.target(latents, noise, t).float()).square().flatten(1).mean(1)
        return error * self.weights(t)

    def weights(self, t: Tensor) -> Tensor:
        """min(SNR, γ) / SNR for ε, / (SNR + 1) for v, with SNR = ᾱ / (1 − ᾱ) (Hang et al. 2023, 3.4); 1 without γ."""
        if self.gamma is None:
            return torch.ones_like(t, dtype=torch.float32)
        kept = self.signal.to(t.device)[t]
        # min(SNR, γ) / SNR = min(1, γ (1 − ᾱ) / ᾱ), and SNR + 1 = 1 / (1 − ᾱ).
        if self.velocity:
            return torch.minimum(kept, self.gamma * (1 - kept))
        return (self.gamma * (1 - kept) / kept.clamp_min(1e-20)).clamp_max(1)

    def _roots(self, t: Tensor, axes: int) -> tuple[Tensor, Tensor]:
        """√ᾱ and √(1 − ᾱ) of each sample, with `axes` axes."""
        kept = self.signal.to(t.device)[t].reshape(-1, *[1] * (axes - 1))
        return kept.sqrt(), (1 - kept).sqrt()


def with_zero_terminal_snr(signal: Tensor) -> Tensor:
    """ᾱ shifted and scaled so that the last is 0 and the first stays (Lin et al. 2023, algorithm 1)."""
    root = signal.sqrt()
    first, last = root[0].clone(), root[-1].clone()
    return ((root - last) * first / (first - last)).square()


def objective_of(settings: TrainingSettings, scheduler: Any) -> Objective:
    """The objective of a training, by the noise schedule of its base. UsageError for a last step that is noise alone where noise
    is predicted: it would teach nothing, and samples that begin there are divided by 0 (Lin et al. 2023, 3.2).
    """
    signal = scheduler.alphas_cumprod.float()
    velocity = (settings.prediction or scheduler.config.prediction_type) == "v_prediction"
    if settings.zero_terminal_snr and not velocity:
        raise UsageError("zero_terminal_snr is for models that predict v, and this one predicts noise",
                         mend="Leave it out, or give --prediction v_prediction to teach it v.")  # fmt: skip
    return Objective(
        with_zero_terminal_snr(signal) if settings.zero_terminal_snr else signal, velocity, settings.snr_gamma
    )
