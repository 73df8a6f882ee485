"""adapterhub export [-o FILE]"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import click

import adapterhub
from adapterhub.cli.options import PATH, db, debug, force
from adapterhub.cli.rows import filters, wanted
from adapterhub.cli.terminal import escape, write

_AT_ONCE = 100
"""Lines that are written together."""


@click.command("export")
@click.option(
    "-o", "--output", "target", metavar="FILE", type=PATH, help="Write to this file; JSON lines go to standard output."
)
@click.option("--format", "form", type=click.Choice(["jsonl", "parquet"]), default="jsonl", show_default=True,
              help="One JSON document a line, which import reads; or a table for other tools.")  # fmt: skip
@filters
@force
@db
@debug
def command(target: Path | None, form: str, force: bool, db: Path | None, **given: Any) -> None:
    from adapterhub.registry.export import exported

    everything = given["missing"] is None  # what is gone belongs to the registry, too
    asked = wanted(given | {"missing": False if everything else given["missing"]})
    if target is not None:
        done = adapterhub.export(target, asked, form=form, db=db, force=force)
        write(f"{escape(done.target)}: {done.records} records, {done.recipes} recipes")
        return
    if form != "jsonl":
        raise click.UsageError("a table is written to a file: -o FILE")
    lines = exported(asked, db=db)
    while some := list(islice(lines, _AT_ONCE)):
        write("\n".join(some))
