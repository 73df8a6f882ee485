"""adapterhub note REF TEXT"""

from __future__ import annotations

from pathlib import Path

import click

import adapterhub
from adapterhub.cli.options import as_json, db, debug
from adapterhub.cli.rows import ref
from adapterhub.cli.terminal import escape, write, write_json


@click.command("note")
@ref
@click.argument("text")
@db
@as_json
@debug
def command(ref: str, text: str, db: Path | None, as_json: bool) -> None:
    found = adapterhub.note(ref, text, db=db)
    write_json(found) if as_json else write(escape(f"{found.name}: {text.strip() or 'no note'}"))
