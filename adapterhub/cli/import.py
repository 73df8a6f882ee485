"""adapterhub import FILE"""

from __future__ import annotations

from pathlib import Path

import click

import adapterhub
from adapterhub.cli.options import PATH, as_json, db, debug
from adapterhub.cli.terminal import escape, write, write_json


@click.command("import")
@click.argument("file", metavar="FILE", type=PATH)
@db
@as_json
@debug
def command(file: Path, db: Path | None, as_json: bool) -> None:
    done = adapterhub.import_(file, db=db)
    if as_json:
        write_json(done)
        return
    write(f"{escape(done.db)}: {done.added} records added, {done.merged} merged, {done.recipes} recipes added")
