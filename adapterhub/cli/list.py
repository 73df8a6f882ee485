"""adapterhub list"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from adapterhub.cli.options import db, debug
from adapterhub.cli.rows import filters, outputs, show, shown_at_most, wanted


@click.command("list")
@filters
@click.option("--sort", type=click.Choice(["added", "name", "size", "modified", "rank", "path"]), default="added",
              show_default=True, help="What comes first: the newest, the first by name, the largest …")  # fmt: skip
@outputs
@db
@debug
def command(sort: str, limit: int | None, form: str | None, db: Path | None, **given: Any) -> None:
    from adapterhub.registry.find import listed

    show(listed(wanted(given), db=db, sort=sort, limit=shown_at_most(form, limit)), form, limit)
