"""adapterhub restore FILE"""

from __future__ import annotations

from pathlib import Path

import click

import adapterhub
from adapterhub.cli.options import PATH, as_json, db, debug
from adapterhub.cli.terminal import escape, write, write_json


@click.command("restore")
@click.argument("file", metavar="FILE", type=PATH)
@db
@as_json
@debug
def command(file: Path, db: Path | None, as_json: bool) -> None:
    done = adapterhub.restore(file, db=db)
    if as_json:
        write_json(done)
        return
    kept = f"; what was there before is {escape(done.replaced)}" if done.replaced else ""
    write(f"{escape(done.target)}: {done.records} records{kept}")
