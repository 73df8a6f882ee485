"""Four trainers to be read top to bottom, and what they share.

    textual_inversion   new words for a frozen model            Gal et al. 2022
    dreambooth          a whole model learns a subject           Ruiz et al. 2023
    lora                a low-rank change beside frozen layers   Hu et al. 2021
    hypernetwork        nets before attention's keys and values  A1111

    import adapterhub
    from adapterhub.documents import LoraSettings

    adapterhub.train(LoraSettings(base="model.safetensors", images="fox/", output="out/", prompt="a photo of sks fox"))

Each is settings → base → what is trained → loop → file; `beginning`, `base`, `pictures`, `concept`, `conditioning`, `objective`,
`prior`, `loop`, `state`, `samples` and `results` are those steps, once for all. `rehearse` goes as far as the first step.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from adapterhub.errors import UsageError

if TYPE_CHECKING:
    from adapterhub.documents import Training, TrainingPlan, TrainingSettings
    from adapterhub.train.loop import Watch

__all__ = ["rehearse", "run"]

_TRAINERS = {
    "TextualInversionSettings": "textual_inversion",
    "DreamBoothSettings": "dreambooth",
    "LoraSettings": "lora",
    "HypernetworkSettings": "hypernetwork",
}
"""Settings → the module here that takes them."""


def run(
    settings: TrainingSettings, *, resume: bool = False, force: bool = False, watch: Watch | None = None
) -> Training:
    """Trains what `settings` are the settings of, into their output's folder.

    That must be empty, or hold a training that was stopped, to `resume`; `force` begins anew in it. `watch` is told of every step.
    UsageError where the trainers' libraries are missing (the extra `train`).
    """
    done: Training = _trainer(settings).train(settings, resume=resume, force=force, watch=watch)
    return done


def rehearse(settings: TrainingSettings, *, resume: bool = False, force: bool = False) -> TrainingPlan:
    """Everything before the first step, whose errors are those of `run`; then what would be done. Nothing is written."""
    trainer = _trainer(settings)
    from adapterhub.train.rehearsal import rehearsed

    return rehearsed(settings, lambda: trainer.train(settings, resume=resume, force=force))


def _trainer(settings: TrainingSettings) -> Any:
    try:
        return import_module(f"{__name__}.{_TRAINERS[type(settings).__name__]}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "adapterhub":
            raise
        raise UsageError(f"training takes {error.name}", mend="pip install 'adapterhub[train]'") from None


class _Called(ModuleType):
    def __call__(self, settings: TrainingSettings, **options: Any) -> Training:
        return run(settings, **options)


sys.modules[__name__].__class__ = _Called
