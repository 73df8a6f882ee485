"""The options of the commands that make an adapter of others, and how a LoRA that they made is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from adapterhub.cli.convert import approximated, describe
from adapterhub.cli.options import TARGET, as_json, db, debug
from adapterhub.cli.recording import keep
from adapterhub.cli.terminal import write, write_json

if TYPE_CHECKING:
    from adapterhub.documents import Conversion

F = TypeVar("F", bound=Callable[..., Any])

dtype = click.option("--dtype", type=click.Choice(["fp32", "fp16", "bf16"]), help="The dtype of the result.")
rank = click.option("--rank", metavar="R", type=click.IntRange(min=1), help="The largest rank that a module may have.")
tolerance = click.option(
    "--tolerance", metavar="E", type=float, help="The smallest ranks whose relative error in each module is at most E."
)
architecture = click.option(
    "--architecture", metavar="NAME", help="Say what it is for, where its keys leave that open."
)


def options(target: str, own: Callable[[F], F]) -> Callable[[F], F]:
    """The options of whatever writes an adapter: `target` is the help of -o, and `own` what a kind has beside."""
    every = (
        click.option("-o", "target", metavar="DST", type=TARGET, required=True, help=target),
        click.option("--to", metavar="LAYOUT", help="The layout to write; the source's own, if it is none."),
        click.option("--for", "for_tool", metavar="TOOL", help="Choose the layout by the tool that will read it."),
        own,
        click.option("--dry-run", is_flag=True, help="Say what would be done and write nothing."),
        click.option("--force", is_flag=True, help="Replace DST if it exists."),
        db,
        as_json,
        debug,
    )

    def decorate(command: F) -> F:
        for option in reversed(every):
            command = option(command)
        return command

    return decorate


writing = options("The file, or a folder (DIR/), to write.", architecture)
"""The options of whatever writes a LoRA."""


def show(done: Conversion, *, db: Path | None, as_json: bool) -> None:
    """One JSON document, or the lines of `convert` and what was approximated; the registry keeps what was written."""
    keep(done, db)
    write_json(done) if as_json else write("\n".join([*describe(done), *approximated(done)]))
