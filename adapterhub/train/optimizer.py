"""The optimizer and the schedule of its learning rate."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from importlib import import_module
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from torch import nn

from adapterhub.documents import TrainingSettings
from adapterhub.errors import UsageError


def made(settings: TrainingSettings, parameters: Iterable[nn.Parameter]) -> tuple[torch.optim.Optimizer, Any]:
    """The optimizer that the settings name, and its schedule. UsageError where they cannot be made."""
    optimizer = _optimizer(settings, list(parameters))
    try:
        schedule = get_scheduler(
            settings.schedule, optimizer, num_warmup_steps=settings.warmup, num_training_steps=settings.steps
        )
        return optimizer, schedule
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the schedule {settings.schedule} cannot be made: {error}", mend="Give another --schedule or --warmup."
        ) from error


def _optimizer(settings: TrainingSettings, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    module, _, name = settings.optimizer.partition(":")
    try:
        kind = getattr(import_module(module), name)
        optimizer = kind(parameters, lr=settings.learning_rate, **settings.optimizer_options)
    except (ImportError, AttributeError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise _refused(settings, str(error)) from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise _refused(settings, "it is no torch.optim.Optimizer")
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise _refused(settings, "its steps compute losses again and again, which a batch here does once")
    return optimizer


def _refused(settings: TrainingSettings, why: str) -> UsageError:
    return UsageError(f"the optimizer {settings.optimizer} cannot be made: {why}",
                      mend="Give MODULE:CLASS of one that is installed, and options that it takes.")  # fmt: skip
