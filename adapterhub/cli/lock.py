"""adapterhub lock [REF]..."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import adapterhub
from adapterhub.cli.options import OUTPUT, as_json, db, debug, force
from adapterhub.cli.rows import filters, wanted
from adapterhub.cli.terminal import columns, in_bytes, write, write_json


@click.command("lock")
@click.argument("refs", metavar="[REF]...", nargs=-1)
@click.option("-o", "--output", "target", metavar="FILE", type=OUTPUT, default="adapterhub.lock", show_default=True,
              help="The lock file; without REF and filters it has what the registry knows below its folder.")  # fmt: skip
@filters
@force
@db
@as_json
@debug
def command(refs: tuple[str, ...], target: Path, force: bool, db: Path | None, as_json: bool, **given: Any) -> None:
    filtered = any(value is not None for value in given.values())
    asked = wanted(given)
    if refs and filtered:
        raise click.UsageError("REF and filters exclude each other")
    done = adapterhub.lock(*refs, wanted=asked if filtered else None, target=target, db=db, force=force)
    rows = [(one.path, in_bytes(one.size), one.sha256) for one in done.files]
    write_json(done) if as_json else write("\n".join(columns(rows)))
