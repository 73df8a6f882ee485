"""adapterhub sync [LOCK]"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import adapterhub
from adapterhub.cli.options import OUTPUT, PATH, as_json, db, debug
from adapterhub.cli.terminal import columns, write, write_json

if TYPE_CHECKING:
    from adapterhub.documents import Synced


@click.command("sync")
@click.argument("lock", metavar="[LOCK]", type=PATH, default="adapterhub.lock")
@click.option("--check", is_flag=True, help="Say whether all is there, and write nothing.")
@click.option("-o", "--output", "target", metavar="DIR", type=OUTPUT, help="The folder to fill; that of the lock file.")
@click.option(
    "--link", is_flag=True, help="Make hard links where that is possible: no room is taken, and both are one file."
)
@db
@as_json
@debug
def command(lock: Path, check: bool, target: Path | None, link: bool, db: Path | None, as_json: bool) -> int:
    done = adapterhub.sync(lock, check=check, target=target, link=link, db=db)
    write_json(done) if as_json else write("\n".join(columns(map(_row, done.files))))
    return 0 if all(one.state in ("there", "restored") for one in done.files) else 1


def _row(one: Synced) -> tuple[str, str, str]:
    where = ", ".join(f"{name} {value}" for name, value in one.sources.items())
    return one.state, one.path, f"from {one.source}" if one.source else f"to be had: {where}" if where else ""
