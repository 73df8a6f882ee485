"""adapterhub backup FILE"""

from __future__ import annotations

from pathlib import Path

import click

import adapterhub
from adapterhub.cli.options import PATH, as_json, db, debug, force
from adapterhub.cli.terminal import escape, in_bytes, write, write_json


@click.command("backup")
@click.argument("file", metavar="FILE", type=PATH)
@force
@db
@as_json
@debug
def command(file: Path, force: bool, db: Path | None, as_json: bool) -> None:
    done = adapterhub.backup(file, db=db, force=force)
    write_json(done) if as_json else write(f"{escape(done.target)}: {done.records} records, {in_bytes(done.size)}")
