"""One question about several paths: one failing does not stop the rest, and the worst status counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from adapterhub.cli.faults import explain, report
from adapterhub.cli.terminal import write, write_json

if TYPE_CHECKING:
    from adapterhub.documents import Document

D = TypeVar("D", bound="Document")


def each(
    paths: Sequence[Path | str],
    ask: Callable[[Path | str], D],
    show: Callable[[D], list[str]],
    *,
    as_json: bool,
    status: Callable[[D], int] = lambda document: 0,
) -> int:
    """Ask about every path and show the answers: lines as they come, or one JSON document (for several, an array)."""
    if len(paths) == 1:
        answer = ask(paths[0])
        write_json(answer) if as_json else write("\n".join(show(answer)))
        return status(answer)
    answers: list[Document] = []
    worst = 0
    for path in paths:
        try:
            answer = ask(path)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other paths are still asked about
            worst = max(worst, report(error, debug="debug" in click.get_current_context().obj))
            answers.append(_failure(path, error))
            continue
        worst = max(worst, status(answer))
        answers.append(answer)
        if not as_json:
            write("\n".join(show(answer)) + "\n")
    if as_json:
        write_json(answers)
    return worst


def _failure(path: Path | str, error: Exception) -> Document:
    from adapterhub.documents import Failure, Fault

    explanation = explain(error)
    return Failure(path=str(path), error=Fault(code=explanation.code, message=explanation.message))
