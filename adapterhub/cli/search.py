"""adapterhub search WORDS"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import adapterhub
from adapterhub.cli.options import db, debug
from adapterhub.cli.rows import filters, outputs, show, shown_at_most, wanted
from adapterhub.cli.terminal import columns, write, write_json

HUB_SHOWN = 20
"""Repositories that are asked for if nobody says how many."""
_HEADS = ("repository", "relation", "for", "downloads", "likes", "changed", "access")


@click.command("search")
@click.argument("words", metavar="WORDS...", nargs=-1)
@filters
@click.option("--hub", is_flag=True, help="Search the Hugging Face Hub, and not the registry.")
@click.option("--base-model", metavar="ID", help="With --hub: adapters of this model, by its id there.")
@click.option("--fts", is_flag=True, help="WORDS are an expression of SQLite's FTS5.")
@outputs
@db
@debug
def command(
    words: tuple[str, ...],
    hub: bool,
    base_model: str | None,
    fts: bool,
    limit: int | None,
    form: str | None,
    db: Path | None,
    **given: Any,
) -> int:
    asked = wanted(given)
    if hub:
        return _on_hub(" ".join(words), base_model, limit, form)
    if base_model is not None:
        raise click.UsageError("--base-model goes with --hub; here it is --for")
    if not words:
        raise click.MissingParameter(param_hint="'WORDS...'", param_type="argument")
    from adapterhub.registry.find import hits

    return show(hits(" ".join(words), asked, db=db, fts=fts, limit=shown_at_most(form, limit)), form, limit)


def _on_hub(words: str, base_model: str | None, limit: int | None, form: str | None) -> int:
    if form not in (None, "json"):
        raise click.UsageError("--hub answers with a table or --json")
    found = adapterhub.search_hub(words, base_model=base_model, limit=HUB_SHOWN if limit is None else limit)
    if form == "json":
        write_json(found)
    elif found.found:
        rows = [(one.repo, one.relation or "", ", ".join(one.base_models), str(one.downloads or 0), str(one.likes or 0),
                 (one.modified or "")[:10], "gated" if one.gated else "") for one in found.found]  # fmt: skip
        write("\n".join(columns([_HEADS, *rows])))
    return 0 if found.found else 1
