"""adapterhub layouts"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import adapterhub
from adapterhub.cli.options import as_json, debug
from adapterhub.cli.terminal import columns, write, write_json

if TYPE_CHECKING:
    from adapterhub.documents import LayoutInfo


@click.command("layouts")
@as_json
@debug
def command(as_json: bool) -> None:
    known = adapterhub.layouts()
    write_json(known) if as_json else write("\n".join(describe(known)))


def describe(known: list[LayoutInfo]) -> list[str]:
    """One line a layout."""
    rows = [("kind", "layout", "does", "for", "what it is")]
    for layout in known:
        does = "/".join(verb for verb, can in (("read", layout.reads), ("write", layout.writes)) if can)
        rows.append((layout.kind, layout.name, does, " ".join(layout.tools), layout.summary))
    return columns(rows)
