"""adapterhub similar REF"""

from __future__ import annotations

from pathlib import Path

import click

import adapterhub
from adapterhub.cli.options import as_json, db, debug
from adapterhub.cli.rows import ref
from adapterhub.cli.terminal import columns, note, write, write_json


@click.command("similar")
@ref
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, metavar="N", help="So many at most."
)
@db
@as_json
@debug
def command(ref: str, limit: int, db: Path | None, as_json: bool) -> int:
    found = adapterhub.similar(ref, db=db, limit=limit)
    if as_json:
        write_json(found)
    elif found.similar:
        rows = [
            (f"{one.cosine:.3f}", f"× {one.strength:.3g}", one.how, f"#{one.member.id}", one.member.path)
            for one in found.similar
        ]
        write("\n".join(columns([("cosine", "strength", "", "", ""), *rows])))
    else:
        note("nothing is similar to it")
    return 0 if found.similar else 1
