"""adapterhub rate REF STARS"""

from __future__ import annotations

from pathlib import Path

import click

import adapterhub
from adapterhub.cli.options import as_json, db, debug
from adapterhub.cli.rows import ref
from adapterhub.cli.terminal import escape, write, write_json


@click.command("rate")
@ref
@click.argument("stars", type=click.IntRange(0, 5))
@db
@as_json
@debug
def command(ref: str, stars: int, db: Path | None, as_json: bool) -> None:
    found = adapterhub.rate(ref, stars, db=db)
    write_json(found) if as_json else write(escape(f"{found.name}: {'★' * stars or 'not rated'}"))
