"""adapterhub search WORDS"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from adapterhub.cli.options import db, debug
from adapterhub.cli.rows import filters, outputs, show, shown_at_most, wanted


@click.command("search")
@click.argument("words", metavar="WORDS...", nargs=-1, required=True)
@filters
@click.option("--fts", is_flag=True, help="WORDS are an expression of SQLite's FTS5.")
@outputs
@db
@debug
def command(
    words: tuple[str, ...], fts: bool, limit: int | None, form: str | None, db: Path | None, **given: Any
) -> int:
    from adapterhub.registry.find import hits

    found = hits(" ".join(words), wanted(given), db=db, fts=fts, limit=shown_at_most(form, limit))
    return show(found, form, limit)  # as grep does
