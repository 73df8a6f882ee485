"""Pictures that the model draws, as it is now, by diffusers' own pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from adapterhub.documents import TrainingSettings
from adapterhub.train.base import Base

_TOGETHER = 8
"""Pictures that are drawn at once."""
_MARGIN, _LINE = 4, 14
"""Pixels around pictures in a grid, and of a line of text."""


def pipeline(base: Base, settings: TrainingSettings) -> Any:
    """diffusers' pipeline of the parts of `base`, whatever has been attached to them, with DDIM."""
    changes = {"clip_sample": False, **scheduling(settings)}
    parts: dict[str, Any] = {"unet": base.unet, "vae": base.vae, **base.encoders,
                             "scheduler": diffusers.DDIMScheduler.from_config(base.scheduler.config, **changes)}  # fmt: skip
    parts |= {name.replace("text_encoder", "tokenizer"): one for name, one in base.tokenizers.items()}
    if base.architecture == "sdxl":
        made = diffusers.StableDiffusionXLPipeline(**parts, add_watermarker=False)
    else:
        made = diffusers.StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    made.set_progress_bar_config(disable=True)
    return made


def scheduling(settings: TrainingSettings) -> dict[str, Any]:
    """What a scheduler must be told of a model that was trained with these settings (zero terminal SNR: Lin et al. 2023, 3.3)."""
    told: dict[str, Any] = {"prediction_type": settings.prediction} if settings.prediction else {}
    return told | (
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if settings.zero_terminal_snr else {}
    )


@torch.no_grad()
def drawn(
    pipe: Any, prompts: Sequence[str], seeds: Sequence[int], *, steps: int, guidance: float, side: int, eta: float = 0.0
) -> list[Image.Image]:
    """A picture of each prompt with the seed beside it; `eta` is DDIM's, 1 for ancestral sampling (Song et al. 2021, 4.1)."""
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    modes = [part.training for part in parts]
    pictures: list[Image.Image] = []
    try:
        for part in parts:
            part.eval()
        for start in range(0, len(prompts), _TOGETHER):
            some = slice(start, start + _TOGETHER)
            chance = [torch.Generator("cpu").manual_seed(seed) for seed in seeds[some]]
            latents = pipe(list(prompts[some]), num_inference_steps=steps, guidance_scale=guidance, eta=eta, height=side,
                           width=side, generator=chance, output_type="latent").images  # fmt: skip
            pictures += _decoded(pipe, latents)
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.train(mode)
    return pictures


def _decoded(pipe: Any, latents: torch.Tensor) -> list[Image.Image]:
    """Pictures of latents. The VAE is float32, and SDXL's gives no numbers in less: autocast ends here."""
    with torch.autocast(latents.device.type, enabled=False):
        pixels = pipe.vae.decode(latents.float() / pipe.vae.config.scaling_factor, return_dict=False)[0]
    pictures: list[Image.Image] = pipe.image_processor.postprocess(pixels, output_type="pil")
    return pictures


def grid(rows: Sequence[tuple[str, Sequence[Image.Image]]], path: Path) -> Path:
    """Rows of pictures under what they are of, as a PNG."""
    size = max(picture.width for _, row in rows for picture in row)
    width = _MARGIN + max(len(row) for _, row in rows) * (size + _MARGIN)
    sheet = Image.new("RGB", (width, len(rows) * (size + _LINE + _MARGIN) + _MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (text, row) in enumerate(rows):
        top = _MARGIN + number * (size + _LINE + _MARGIN)
        pen.text((_MARGIN, top), " ".join(text.split()), fill="black")
        for column, picture in enumerate(row):
            sheet.paste(picture, (_MARGIN + column * (size + _MARGIN), top + _LINE))
    path.parent.mkdir(parents=True, exist_ok=True)
    told = PngInfo()
    told.add_itxt("parameters", "; ".join(" ".join(text.split()) for text, _ in rows))  # where A1111 puts the prompt
    sheet.save(path, pnginfo=told)
    return path


def curve(losses: Sequence[float], path: Path, size: tuple[int, int] = (640, 320)) -> Path:
    """The loss of each step, and their running mean, as a PNG with a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size[0] / 100, size[1] / 100), dpi=100, layout="constrained")
    axes = figure.subplots()
    span = max(1, len(losses) // 20)
    sums = [0.0, *accumulate(losses)]
    mean = [(sums[end] - sums[max(0, end - span)]) / min(span, end) for end in range(1, len(sums))]
    axes.semilogy(range(1, len(losses) + 1), losses, linewidth=0.5, alpha=0.4)
    axes.semilogy(range(1, len(losses) + 1), mean)
    axes.set(xlabel="step", ylabel=f"loss, mean of {span}")
    figure.savefig(path, metadata={"Software": None})
    return path


def sheet(settings: TrainingSettings, base: Base, prompts: Sequence[str], side: int, step: int) -> Path:
    """The grid of `prompts` that the model draws after `step`, with the seeds 0, 1, … as long as training goes on."""
    pipe = pipeline(base, settings)
    seeds = list(range(settings.sample_count))
    rows = [(prompt, drawn(pipe, [prompt] * len(seeds), seeds, steps=settings.sample_steps, guidance=settings.guidance, side=side))
            for prompt in prompts]  # fmt: skip
    return grid(rows, Path(settings.output) / "samples" / f"step-{step:06}.png")
