"""How results reach standard output: escaped, aligned, coloured only for people, or as JSON.

JSON is plain ASCII, so that nothing in a file acts on a terminal and every locale can print it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from adapterhub.documents import Document, Problem

_TRAINERS = ("epoch", "global_step", "db_epoch", "db_global_step", "pytorch-lightning_version")
"""Lightning's, and those of d8ahazard's DreamBooth extension."""
COLOURS = {"error": "red", "warning": "yellow"}


def escape(text: object) -> str:
    """`text` with everything that is not printable (controls, bidirectional overrides, line ends) as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def paint(text: str, colour: str) -> str:
    """`text` in a colour if standard output is a terminal and NO_COLOR is not set (no-color.org)."""
    plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else click.style(text, fg=colour)


class Unprinted(OSError):
    """Standard output takes no more."""


def write(text: str) -> None:
    """Print `text`. If the reader has gone, the rest is dropped in silence: the exit status still tells. Raises Unprinted."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise Unprinted(error.errno, error.strerror) from error


def note(text: str) -> None:
    """Print `text` to standard error."""
    click.echo(text, err=True)


def write_json(documents: Document | Sequence[Document]) -> None:
    """Print one document, or an array of them."""
    if isinstance(documents, Sequence):
        write("[" + ",\n".join(map(_json, documents)) + "]")
    else:
        write(_json(documents))


def columns(rows: Iterable[Sequence[object]]) -> list[str]:
    """Rows as lines of aligned columns, two spaces apart; every cell escaped."""
    cells = [[escape(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def counts(numbers: Mapping[str, int]) -> str:
    """{"lora": 264, "norm": 2} as "lora 264, norm 2"."""
    return ", ".join(f"{name} {number}" for name, number in numbers.items())


def number(value: float | None) -> str:
    """A measured error for people."""
    return "not measured" if value is None else f"{value:.3g}"


def in_bytes(count: int) -> str:
    """2132626174 as "2.13 GB"."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


def trained(metadata: Mapping[str, str]) -> str:
    """What trained it, where `adapterhub train` did: "lora, 500 steps on 4 pictures"; else what other trainers leave in a pickle:
    "epoch 3, global_step 470000".
    """
    try:
        told = json.loads(metadata.get("adapterhub.training", "{}"))
        return (
            f"{told['technique']}, {told['settings']['steps']} steps on {told['data']['subject']['pictures']} pictures"
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return ", ".join(f"{name} {metadata[name]}" for name in _TRAINERS if name in metadata)


def problems(found: Iterable[Problem]) -> list[str]:
    """One line a problem, and one below it that says how to mend it."""
    lines = []
    for problem in found:
        where = f"{escape(problem.where)}: " if problem.where else ""
        severity = paint(problem.severity, COLOURS[problem.severity])
        lines.append(f"  {severity} {escape(problem.code)}: {where}{escape(problem.message)}")
        if problem.mend:
            lines.append(f"    {escape(problem.mend)}")
    return lines


def _json(document: Document) -> str:
    return document.model_dump_json(indent=2, ensure_ascii=True)
