"""adapterhub remove REF..."""

from __future__ import annotations

from pathlib import Path

import click

import adapterhub
from adapterhub.cli.options import as_json, db, debug
from adapterhub.cli.terminal import columns, write, write_json


@click.command("remove")
@click.argument("refs", metavar="REF...", nargs=-1)
@click.option("--missing", is_flag=True, help="Everything whose files are gone.")
@db
@as_json
@debug
def command(refs: tuple[str, ...], missing: bool, db: Path | None, as_json: bool) -> None:
    if not refs and not missing:
        raise click.UsageError("say what to forget: REF... or --missing")
    gone = adapterhub.remove(*refs, missing=missing, db=db)
    if as_json:
        write_json(gone)
    elif gone:
        write("\n".join(columns([("forgotten", one.name, one.path) for one in gone])))
