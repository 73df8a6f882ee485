"""adapterhub alias REF NAME..."""

from __future__ import annotations

from pathlib import Path

import click

import adapterhub
from adapterhub.cli.options import as_json, db, debug
from adapterhub.cli.rows import ref
from adapterhub.cli.terminal import escape, write, write_json


@click.command("alias")
@ref
@click.argument("names", metavar="NAME...", nargs=-1)
@click.option("--remove", metavar="NAME", multiple=True, help="Take this name away.")
@db
@as_json
@debug
def command(ref: str, names: tuple[str, ...], remove: tuple[str, ...], db: Path | None, as_json: bool) -> None:
    found = adapterhub.alias(ref, *names, remove=remove, db=db)
    called = [told.value for told in (found.facts or {}).get("aliases", ())]
    shown = ", ".join(name for names in called for name in names) or "no other name"
    write_json(found) if as_json else write(escape(f"{found.name}: {shown}"))
