"""adapterhub tag REF TAG..."""

from __future__ import annotations

from pathlib import Path

import click

import adapterhub
from adapterhub.cli.options import as_json, db, debug
from adapterhub.cli.rows import ref
from adapterhub.cli.terminal import escape, write, write_json


@click.command("tag")
@ref
@click.argument("tags", metavar="TAG...", nargs=-1)
@click.option("--remove", metavar="TAG", multiple=True, help="Take this tag away.")
@db
@as_json
@debug
def command(ref: str, tags: tuple[str, ...], remove: tuple[str, ...], db: Path | None, as_json: bool) -> None:
    found = adapterhub.tag(ref, *tags, remove=remove, db=db)
    write_json(found) if as_json else write(escape(f"{found.name}: {', '.join(found.tags) or 'no tags'}"))
