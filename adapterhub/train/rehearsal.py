"""A training as far as its first step, to say what it would be: what is wrong comes out as it would, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING

from adapterhub.documents import DreamBoothSettings, Problem, TrainingPlan, TrainingSettings
from adapterhub.operations.problems import warning

if TYPE_CHECKING:
    from adapterhub.train.loop import Loop

_REHEARSING: ContextVar[bool] = ContextVar("rehearsing", default=False)
_BYTES = 4
"""Of a number that was trained: files hold float32."""


class _Stopped(Exception):
    """The loop has come to its first step."""

    def __init__(self, loop: Loop, first: int) -> None:
        super().__init__()
        self.loop, self.first = loop, first


def is_on() -> bool:
    """Whether nothing is to be written."""
    return _REHEARSING.get()


def stop(loop: Loop, first: int) -> None:
    """Ends a rehearsal before step `first`; nothing otherwise."""
    if is_on():
        raise _Stopped(loop, first)


def rehearsed(settings: TrainingSettings, train: Callable[[], object]) -> TrainingPlan:
    """What `train` would do."""
    token = _REHEARSING.set(True)
    try:
        train()
    except _Stopped as reached:
        return _plan(settings, reached.loop, reached.first)
    finally:
        _REHEARSING.reset(token)
    raise AssertionError("a training without a loop")


def _plan(settings: TrainingSettings, loop: Loop, first: int) -> TrainingPlan:
    subject, *others = loop.concepts
    known = sum(len(concept.pictures) for concept in others)
    asked = getattr(settings, "class_count", 0) if getattr(settings, "class_prompt", None) else 0
    whole = sum(one.numel() for module in loop.base.modules().values() for one in module.parameters())
    return TrainingPlan(
        technique=settings.technique, architecture=loop.base.architecture, base=loop.base.ingredient,
        steps=settings.steps - first, batch=settings.batch, resolution=loop.sampling.side, images=len(subject.pictures),
        captions=len({text for texts in subject.captions for text in texts}), class_images=known or asked,
        to_draw=0 if known else asked, trained=loop.trained,
        size=_BYTES * (whole if isinstance(settings, DreamBoothSettings) else loop.trained), processes=loop.processes,
        problems=small(loop),
    )  # fmt: skip


def small(loop: Loop) -> list[Problem]:
    """A warning of pictures that are smaller than what they are trained at."""
    names = [one.name for one in loop.concepts[0].pictures if min(one.size) < loop.sampling.side]
    if not names:
        return []
    return [warning("small-picture", names[0], f"{len(names)} of {len(loop.concepts[0].pictures)} pictures are smaller than "
                    f"{loop.sampling.side} pixels, and are blown up", "Give larger pictures, or a lower --resolution.")]  # fmt: skip
