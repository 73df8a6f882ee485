"""adapterhub watch PATH..."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import adapterhub
from adapterhub.cli.options import PATH, db, debug
from adapterhub.cli.terminal import counts, escape, note, write

if TYPE_CHECKING:
    from adapterhub.documents import Indexing


@click.command("watch")
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=PATH)
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Processes; as many as there are processors.")
@click.option("--nl", is_flag=True, help="Print one JSON document a line, for every change.")
@db
@debug
def command(paths: tuple[Path, ...], jobs: int | None, nl: bool, db: Path | None) -> None:
    for done in adapterhub.watch(*paths, db=db, jobs=jobs):
        write(done.model_dump_json(ensure_ascii=True) if nl else describe(done))
        for trouble in done.troubles:
            note(f"{escape(trouble.path)}: {escape(trouble.message)}")


def describe(done: Indexing) -> str:
    """What one run learned, in a line."""
    told = {name: getattr(done, name) for name in ("new", "changed", "moved", "missing", "refused", "unchanged")}
    return counts({name: count for name, count in told.items() if count}) or "nothing"
