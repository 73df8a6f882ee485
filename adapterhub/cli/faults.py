"""How an error becomes a message on standard error and an exit status, and nothing else."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable
from typing import NamedTuple

import click

from adapterhub.cli import ending
from adapterhub.cli.terminal import Unprinted, escape, note
from adapterhub.errors import AdapterhubError, BrokenAdapter, LossyConversion

SHOWN = 20
"""How many losses or places a message lists."""
_UNPRINTED = "Files that the command was to write are written, and stay: only what it had to say is lost."


class Explanation(NamedTuple):
    """What a user learns of an error."""

    code: str
    message: str
    status: int


def explain(error: BaseException) -> Explanation:
    """The stable code, the message (escaped, perhaps of several lines) and the exit status of `error`."""
    code = getattr(error, "rule", None) or _kebab(type(error).__name__)
    match error:
        case AdapterhubError():
            return Explanation(code, _message(error), error.exit_status)
        case FileNotFoundError():
            return Explanation(code, f"{escape(error.filename)}: no such file or folder", 2)
        case IsADirectoryError() if error.filename:
            return Explanation(code, f"{escape(error.filename)} is a folder, and a file is wanted", 2)
        case click.Abort() if error.__cause__:  # click wraps EOFError as it wraps an interrupt
            return explain(error.__cause__)
        case KeyboardInterrupt() | click.Abort():
            by = next(iter(ending.asked), None)  # a library may have raised an interrupt of its own instead
            return Explanation("interrupted", str(by or "interrupted"), by.exit_status if by else 130)
        case Unprinted():
            return Explanation(code, f"cannot write to standard output: {error.strerror}\n{_UNPRINTED}", 5)
        case OSError():
            return Explanation(code, escape(error), 5)
        case MemoryError():
            return Explanation(code, "out of memory", 5)
    kind = type(error).__name__
    return Explanation("internal", f"internal error, {kind}: {escape(error)}\nRun with --debug for the traceback.", 5)


def report(error: BaseException, *, debug: bool) -> int:
    """Say on standard error what went wrong, with `debug` also where, and return the exit status."""
    if isinstance(error, click.ClickException):
        error.show()
        return 2
    if debug:
        note("".join(traceback.format_exception(error)).rstrip())
    note(f"error: {explain(error).message}")
    return explain(error).status


def _message(error: AdapterhubError) -> str:
    lines = [escape(error.message), *_details(error)]
    return "\n".join([*lines, escape(error.mend)] if error.mend else lines)


def _details(error: AdapterhubError) -> list[str]:
    if isinstance(error, LossyConversion):
        losses = (f"{what}: {why}" for what, why in error.losses)
        return _listed(loss for loss in losses if loss not in error.message)
    return (
        _listed(place for place in error.places if place not in error.message)
        if isinstance(error, BrokenAdapter)
        else []
    )


def _listed(texts: Iterable[str]) -> list[str]:
    lines = [f"  {escape(text)}" for text in texts]
    more = [f"  ... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return lines[:SHOWN] + more


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
