"""How people see a training: a line while it runs, a table when it is done."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from adapterhub.cli.terminal import columns, in_bytes, note, number, problems

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from adapterhub.documents import Identifiers, Training, TrainingPlan
    from adapterhub.train.loop import Progress, Watch

_PAUSE = 10.0
"""Seconds between two plain lines."""


@contextmanager
def line(steps: int) -> Iterator[Watch]:
    """What is told of every step: one line that changes for a person, and one now and then in a log."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield _Plain()
        return
    first: list[Progress] = []
    with _bar() as bar:
        task = bar.add_task("", total=steps, told="")

        def show(done: Progress) -> None:
            first[:] = first or [done]
            bar.update(task, total=done.steps, completed=done.step, told=f"{_loss(done)}{_pace(first[0], done)}")

        yield show


def _bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[told]}"), console=Console(stderr=True), transient=True,
        redirect_stdout=False, redirect_stderr=False,
    )  # fmt: skip


class _Plain:
    """The first step, the last, and one every ten seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told = -_PAUSE
        self._first: Progress | None = None

    def __call__(self, done: Progress) -> None:
        now = self._clock()
        self._first = self._first or done
        if now - self._told < _PAUSE and done.step < done.steps:
            return
        self._told = now
        note(f"step {done.step}/{done.steps}, {_loss(done)}{_pace(self._first, done)}")


def _loss(done: Progress) -> str:
    return f"loss {done.loss:.4f}"


def _pace(first: Progress, done: Progress) -> str:
    """Steps a second, and the time that is left; nothing after one step."""
    made, took = done.step - first.step, done.seconds - first.seconds
    if not made or took <= 0:
        return ""
    left = round((done.steps - done.step) * took / made)
    return f", {made / took:.3g} steps/s, {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"


def describe(done: Training) -> list[str]:
    """What was made, and where it lies."""
    rows = [
        ("trained", f"{done.technique}, {done.trained:,} numbers, {done.steps} steps on {done.images} pictures"),
        *(("file", f"{one.path} ({one.layout}, {_size(Path(one.path))})") for one in done.files),
        ("loss", f"{number(done.loss)}, the mean of the last tenth"),
        *(("samples", path) for path in done.samples),
        ("time", f"{done.seconds:.1f} s, {done.processes} process{'es' * (done.processes > 1)}"),
    ]
    return columns(rows) + problems(done.problems)


def _size(path: Path) -> str:
    parts = [path] if path.is_file() else [part for part in path.rglob("*") if part.is_file()]
    return in_bytes(sum(part.stat().st_size for part in parts))


def planned(plan: TrainingPlan) -> list[str]:
    """What would be done."""
    of_class = [
        ("class", f"{plan.class_images} pictures{f', {plan.to_draw} of them to be drawn' * bool(plan.to_draw)}")
    ]
    rows = [
        ("would train", f"{plan.technique}, {plan.trained:,} numbers, {in_bytes(plan.size)} as float32"),
        ("base", f"{plan.base.name}, {plan.architecture}"),
        ("pictures", f"{plan.images}, {plan.captions} captions, at {plan.resolution} × {plan.resolution}"),
        *(of_class if plan.class_images else []),
        ("steps", f"{plan.steps} of {plan.batch} pictures, {plan.processes} process{'es' * (plan.processes > 1)}"),
    ]
    return columns(rows) + problems(plan.problems)


def identifiers(found: Identifiers) -> list[str]:
    """A rare word a line, that with the weakest prior first."""
    heads = ("word", "prior", "rank", "length", "nearest")
    rows = [(one.text, f"{one.prior:.3f}", _each(token.rank for token in one.tokens), _each(token.length for token in one.tokens),
             ", ".join(dict.fromkeys(near.token for token in one.tokens for near in token.nearest if near.token)))
            for one in found.identifiers]  # fmt: skip
    return columns([heads, *rows]) if rows else ["no word of this model is rare"]


def _each(values: Iterable[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)
