"""adapterhub replay REF"""

from __future__ import annotations

from pathlib import Path

import click

import adapterhub
from adapterhub.cli.options import PATH, as_json, db, debug
from adapterhub.cli.rows import ref
from adapterhub.cli.terminal import columns, write, write_json


@click.command("replay")
@ref
@click.option(
    "-o", "target", metavar="DST", type=PATH, help="Keep what is made there; it is only compared, if not given."
)
@click.option("--force", is_flag=True, help="Replace DST if it exists.")
@db
@as_json
@debug
def command(ref: str, target: Path | None, force: bool, db: Path | None, as_json: bool) -> int:
    done = adapterhub.replay(ref, target, db=db, force=force)
    verdict = "the same" if done.same else f"another: made by version {done.recipe.version}"
    rows = [
        ("command", done.recipe.command),
        *(("of", path) for path in done.inputs),
        ("sha256", done.found),
        ("result", verdict),
        *([("to", done.target)] if done.target else []),
    ]
    write_json(done) if as_json else write("\n".join(columns(rows)))
    return 0 if done.same else 1
