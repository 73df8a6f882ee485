"""adapterhub architectures"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import adapterhub
from adapterhub.cli.options import as_json, debug
from adapterhub.cli.terminal import columns, counts, write, write_json

if TYPE_CHECKING:
    from adapterhub.documents import ArchitectureInfo


@click.command("architectures")
@as_json
@debug
def command(as_json: bool) -> None:
    known = adapterhub.architectures()
    write_json(known) if as_json else write("\n".join(describe(known)))


def describe(known: list[ArchitectureInfo]) -> list[str]:
    """One line an architecture."""
    rows = [("architecture", "parameters", "modules", "what it is")]
    rows += [(one.name, f"{one.parameters:,}", counts(one.components), one.title) for one in known]
    return columns(rows)
