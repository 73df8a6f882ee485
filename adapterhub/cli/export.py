"""adapterhub export [-o FILE] | --sidecar FAMILY [REF...]"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import adapterhub
from adapterhub.cli.options import OUTPUT, as_json, db, debug, force
from adapterhub.cli.rows import filters, wanted
from adapterhub.cli.terminal import escape, note, write, write_json

if TYPE_CHECKING:
    from adapterhub.documents import SidecarExport
    from adapterhub.registry.find import Filter

_AT_ONCE = 100
"""Lines that are written together."""
_FAMILIES = ["a1111", "lora-manager", "stability-matrix", "civitai"]


@click.command("export")
@click.argument("refs", metavar="[REF]...", nargs=-1)
@click.option(
    "-o",
    "--output",
    "target",
    metavar="FILE",
    type=OUTPUT,
    help="Write to this file; JSON lines go to standard output.",
)
@click.option("--format", "form", type=click.Choice(["jsonl", "parquet"]), default="jsonl", show_default=True,
              help="One JSON document a line, which import reads; or a table for other tools.")  # fmt: skip
@click.option(
    "--sidecar", "family", type=click.Choice(_FAMILIES), help="Write the side-cars of REF..., or of all, in this form."
)
@click.option("--dry-run", is_flag=True, help="With --sidecar: say what would be written.")
@filters
@force
@db
@as_json
@debug
def command(
    refs: tuple[str, ...], target: Path | None, form: str, family: str | None, dry_run: bool, force: bool, db: Path | None,
    as_json: bool, **given: Any,
) -> int:  # fmt: skip
    everything = given["missing"] is None  # what is gone belongs to the registry, too
    asked = wanted(given | {"missing": False if everything and family is None else given["missing"]})
    if family is not None:
        done = adapterhub.export_sidecars(family, *refs, wanted=asked, dry_run=dry_run, db=db)
        write_json(done) if as_json else _say(done)
        return int(any(one.error for one in done))
    if refs or dry_run:
        raise click.UsageError("REF and --dry-run go with --sidecar")
    _exported(target, form, force, db, asked, as_json=as_json)
    return 0


def _exported(target: Path | None, form: str, force: bool, db: Path | None, asked: Filter, *, as_json: bool) -> None:
    from adapterhub.registry.export import exported

    if target is not None:
        done = adapterhub.export(target, asked, form=form, db=db, force=force)
        write_json(done) if as_json else write(f"{escape(done.target)}: {done.records} records, {done.recipes} recipes")
        return
    if form != "jsonl":
        raise click.UsageError("a table is written to a file: -o FILE")
    if as_json:
        raise click.UsageError("--json tells of a file, and here go lines of JSON: give -o FILE, or leave it out")
    lines = exported(asked, db=db)
    while some := list(islice(lines, _AT_ONCE)):
        write("\n".join(some))


def _say(done: list[SidecarExport]) -> None:
    for one in done:
        if one.error:
            note(f"{escape(one.model)}: {escape(one.error)}")
            continue
        told = ", ".join(change.field for change in one.changes) or "as it was"
        left = f"; no place for {', '.join(gap.field for gap in one.left_out)}" if one.left_out else ""
        write(escape(f"{one.sidecar}: {told}{left}"))
