"""adapterhub search WORDS"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import adapterhub
from adapterhub.cli.options import db, debug
from adapterhub.cli.rows import filters, outputs, show, shown_at_most, wanted
from adapterhub.cli.terminal import columns, escape, note, write, write_json

if TYPE_CHECKING:
    from adapterhub.documents import HubModel
    from adapterhub.registry.find import Filter

HUB_SHOWN = 20
"""Repositories that are asked for if nobody says how many."""
_HEADS = ("repository", "kind", "architecture", "relation", "for", "downloads", "likes", "changed", "access")


@click.command("search")
@click.argument("words", metavar="WORDS...", nargs=-1)
@filters
@click.option("--hub", is_flag=True, help="Search the Hugging Face Hub, and not the registry.")
@click.option("--base-model", metavar="ID", help="With --hub: adapters of this model, by its id there.")
@click.option(
    "--look", is_flag=True, help=f"With --hub: read the headers of the first {HUB_SHOWN}, to know what they are."
)
@click.option("--fts", is_flag=True, help="WORDS are an expression of SQLite's FTS5.")
@outputs
@db
@debug
def command(
    words: tuple[str, ...],
    hub: bool,
    base_model: str | None,
    look: bool,
    fts: bool,
    limit: int | None,
    form: str | None,
    db: Path | None,
    **given: Any,
) -> int:
    asked = wanted(given)
    if hub:
        return _on_hub(" ".join(words), base_model, asked, limit, form, look=look)
    if base_model is not None or look:
        raise click.UsageError("--base-model and --look go with --hub; here it is --for")
    if not words:
        raise click.MissingParameter(param_hint="'WORDS...'", param_type="argument")
    from adapterhub.registry.find import hits

    return show(hits(" ".join(words), asked, db=db, fts=fts, limit=shown_at_most(form, limit)), form, limit)


def _on_hub(
    words: str, base_model: str | None, asked: Filter, limit: int | None, form: str | None, *, look: bool
) -> int:
    if form not in (None, "json"):
        raise click.UsageError("--hub answers with a table or --json")
    if replace(asked, kind=None) != type(asked)():
        raise click.UsageError("of the options that say what to find, --hub takes --kind and --base-model")
    limit = HUB_SHOWN if limit is None else limit
    found = adapterhub.search_hub(words, base_model=base_model, kind=asked.kind, limit=limit, look=look)
    if form == "json":
        write_json(found)
    elif found.found:
        write("\n".join(columns([_HEADS, *map(_row, found.found)])))
        for one in found.found:
            if one.unread:
                note(f"{escape(one.repo)} was not looked at: {escape(one.unread)}")
    return 0 if found.found else 1


def _row(one: HubModel) -> tuple[str, ...]:
    return (one.repo, one.kind or "", one.architecture or "", one.relation or "", ", ".join(one.base_models),
            str(one.downloads or 0), str(one.likes or 0), (one.modified or "")[:10], "gated" if one.gated else "")  # fmt: skip
