"""How a training ends before its time: it is asked to, or what it computes is no number any more."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from adapterhub.documents import TrainingSettings
from adapterhub.errors import RefusedInput
from adapterhub.train.concept import Draw, Encoder


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM and, unless it is ignored, SIGHUP set, so that a run ends between two steps; a second SIGINT
    ends it at once.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def stop(number: int, frame: Any) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    lost = () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)
    before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM, *lost)}
    try:
        yield asked
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def broken(
    step: int, what: str, draws: Sequence[Draw], settings: TrainingSettings, model: nn.Module, encoder: Encoder
) -> RefusedInput:
    """What to say where `what` (the loss, its gradient) of a step is no finite number, with the cause as far as it is found."""
    cause, mend = (
        _weights("base", _frozen(model, encoder), "adapterhub validate says more of the base.")
        or _weights("trained", dict(_trained(model)), "Lower --learning-rate.")
        or _picture(draws, encoder)
        or _overflow(draws, settings)
    )
    kept = "The last state in the output's folder is from before this." if settings.save_every else "No state was saved: --save-every keeps some."  # fmt: skip
    return RefusedInput(f"step {step + 1}: {what} is not a finite number: {cause}", mend=f"{mend} {kept}")


Cause = tuple[str, str]


def _frozen(model: nn.Module, encoder: Encoder) -> dict[str, Tensor]:
    own = {name: one for name, one in model.named_parameters() if not one.requires_grad}
    return {**own, **{f"vae.{name}": one for name, one in encoder.vae.named_parameters()}}


def _trained(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, one) for name, one in model.named_parameters() if one.requires_grad)


def _weights(which: str, weights: Mapping[str, Tensor], mend: str) -> Cause | None:
    name = next((name for name, one in weights.items() if not torch.isfinite(one).all()), None)
    return None if name is None else (f"{name}, a {which} weight, holds what is no number", mend)


def _picture(draws: Sequence[Draw], encoder: Encoder) -> Cause | None:
    """A picture that the VAE makes no numbers of."""
    for draw in draws:
        if not torch.isfinite(draw.concept.latents(draw, encoder)).all():
            return f"the VAE makes no numbers of {draw.concept.pictures[draw.picture].name}", "Remove the picture, or save it again."  # fmt: skip
    return None


def _overflow(draws: Sequence[Draw], settings: TrainingSettings) -> Cause:
    names = sorted({draw.concept.pictures[draw.picture].name for draw in draws})
    why = "fp16 overflows in some models: --precision bf16 does not. " if settings.precision == "fp16" else ""
    return (f"what the model predicts grew too large, with {', '.join(names[:4])}{' and others' * (len(names) > 4)}",
            f"{why}Lower --learning-rate.")  # fmt: skip
