"""The prior-preservation loss of DreamBooth (Ruiz et al. 2023, 3.3 and equation 2): the model goes on drawing its class.

    E[ w_t ‖x̂(α_t x + σ_t ε, c) − x‖²  +  λ w_t' ‖x̂(α_t' x_pr + σ_t' ε', c_pr) − x_pr‖² ]

x_pr are pictures that the frozen base draws of the class with an ancestral sampler; t' and ε' are drawn apart from t and ε.
"""

from __future__ import annotations

import json
from pathlib import Path

from accelerate import Accelerator
from PIL import Image

from adapterhub.documents import PriorSettings
from adapterhub.errors import UsageError
from adapterhub.files import publishing
from adapterhub.files.source import machine
from adapterhub.train import rehearsal
from adapterhub.train.base import Base
from adapterhub.train.beginning import CLASS
from adapterhub.train.concept import Concept, ensure_short, sampling_of
from adapterhub.train.pictures import load
from adapterhub.train.randomness import number
from adapterhub.train.samples import drawn, pipeline

_TELLING = "class.json"


def prior(settings: PriorSettings, base: Base, accelerator: Accelerator) -> list[Concept]:
    """The pictures of the class, weighing λ; none without a class prompt, or with a λ of 0. UsageError where fewer are given than
    asked for.
    """
    if settings.class_prompt is None or not settings.prior_weight:
        return []
    if rehearsal.is_on() and settings.class_images is None:
        return []
    folder = Path(settings.class_images) if settings.class_images else _generated(settings, base, accelerator)
    pictures = load(folder, captions=False, side=sampling_of(settings, base).side)
    if len(pictures) < settings.class_count:
        raise UsageError(f"{folder}: {len(pictures)} pictures of the class, and {settings.class_count} were asked for",
                         mend=f"Add some, or give --class-count {len(pictures)}.")  # fmt: skip
    concept = Concept(
        "class",
        pictures[: settings.class_count],
        [[settings.class_prompt]] * settings.class_count,
        settings.prior_weight,
    )
    ensure_short(concept, base)
    return [concept]


def _generated(settings: PriorSettings, base: Base, accelerator: Accelerator) -> Path:
    """Pictures drawn by the base, before anything is attached to it; those of an earlier run only if they were drawn alike.

    UsageError where other pictures lie in their place.
    """
    folder = Path(settings.output) / CLASS
    if folder.exists() and _told(folder) is None:
        raise UsageError(f"{folder} holds what no training has drawn, and pictures of the class would take its place",
                         mend="Give --class-images to use these, or another output folder.")  # fmt: skip
    side = sampling_of(settings, base).side
    told = {"prompt": settings.class_prompt, "base": base.ingredient.sha256, "seed": settings.seed, "count": settings.class_count,
            "steps": settings.sample_steps, "guidance": settings.guidance, "side": side, "prediction": settings.prediction}  # fmt: skip
    accelerator.wait_for_everyone()  # every process has looked at the folder before one writes into it
    if accelerator.is_main_process and _told(folder) != told:
        pictures = _drawn(settings, base, accelerator, side)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with publishing.unpublished_folder(folder) as (temporary, _), machine("write", folder):
            for index, picture in enumerate(pictures):
                picture.save(temporary / f"{index:04}.png")
            (temporary / _TELLING).write_text(json.dumps(told, indent=1), "utf-8")
            publishing.publish_folder(temporary, folder, force=True)
    accelerator.wait_for_everyone()
    return folder


def _told(folder: Path) -> object:
    try:
        return json.loads((folder / _TELLING).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _drawn(settings: PriorSettings, base: Base, accelerator: Accelerator, side: int) -> list[Image.Image]:
    for module in base.modules().values():
        module.to(accelerator.device)
    pipe = pipeline(
        base, settings.model_copy(update={"zero_terminal_snr": False})
    )  # it has learned no other schedule yet
    seeds = [number(settings.seed, "class", index) & 0xFFFF_FFFF for index in range(settings.class_count)]
    return drawn(pipe, [str(settings.class_prompt)] * len(seeds), seeds, steps=settings.sample_steps, guidance=settings.guidance,
                 side=side, eta=1.0)  # fmt: skip
