"""One line on standard error while bytes are computed with or written: how many, how fast, how long still."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import adapterhub

if TYPE_CHECKING:
    from rich.progress import Progress

PATIENCE = 0.5
"""Seconds of work before the line is worth it."""
_PAUSE = 0.1
"""Seconds between two looks of the line."""


@contextmanager
def line(arguments: Sequence[str]) -> Iterator[None]:
    """Shows the progress of the work inside, if there is a person to see it."""
    if not _is_seen(arguments):
        yield
        return
    shown = _Line()
    try:
        with adapterhub.watched(shown):
            yield
    finally:
        shown.stop()


def _is_seen(arguments: Sequence[str]) -> bool:
    """Whether standard error is a terminal, and this is no program that reads JSON."""
    read_by_program = "--json" in arguments and not sys.stdout.isatty()
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not read_by_program


class _Line:
    """Listens, and keeps a line up to date from PATIENCE seconds after the first byte until all that is expected is there,
    so that it never stands between the lines of a result.
    """

    def __init__(self) -> None:
        self._done = self._expected = 0
        self._begun = self._looked = 0.0
        self._progress: Progress | None = None

    def __call__(self, done: int, expected: int) -> None:
        now = time.monotonic()
        self._begun = self._begun or now
        self._done += done
        self._expected += expected
        if self._done >= self._expected:
            self.stop()
        elif now - self._begun >= PATIENCE and now - self._looked >= _PAUSE:
            self._looked = now
            self._draw()

    def _draw(self) -> None:
        if self._progress is None:
            self._progress = _rich_progress()
            self._progress.add_task("working", total=self._expected)
            self._progress.start()
        task = self._progress.task_ids[0]
        self._progress.update(task, completed=self._done, total=self._expected, refresh=True)

    def stop(self) -> None:
        """Takes the line away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _rich_progress() -> Progress:
    """A line without a thread of its own, which leaves both streams as they are."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    return Progress(
        "{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False,
    )  # fmt: skip
