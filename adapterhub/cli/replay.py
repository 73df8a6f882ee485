"""adapterhub replay REF"""

from __future__ import annotations

from pathlib import Path

import click

import adapterhub
from adapterhub.cli.options import OUTPUT, as_json, db, debug
from adapterhub.cli.rows import ref
from adapterhub.cli.terminal import columns, write, write_json


@click.command("replay")
@ref
@click.option(
    "-o", "target", metavar="DST", type=OUTPUT, help="Keep what is made there; it is only compared, if not given."
)
@click.option("--force", is_flag=True, help="Replace DST if it exists.")
@db
@as_json
@debug
def command(ref: str, target: Path | None, force: bool, db: Path | None, as_json: bool) -> int:
    done = adapterhub.replay(ref, target, db=db, force=force)
    rows = [
        ("command", done.recipe.command),
        *(("of", path) for path in done.inputs),
        ("sha256", done.found),
        ("result", "the same" if done.same else _another(done.recipe.version)),
        *([("to", done.target)] if done.target else []),
    ]
    write_json(done) if as_json else write("\n".join(columns(rows)))
    return 0 if done.same else 1


def _another(version: str) -> str:
    """What may have made the file another one."""
    if version != adapterhub.__version__:
        return f"another: made by version {version}, and this is {adapterhub.__version__}"
    return "another: this version made it too, so that its name, the machine or the libraries were others"
