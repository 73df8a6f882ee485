"""adapterhub unmerge MERGED (--undo FILE | ADAPTER[:UNET[:TE]]…) -o OUT"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import adapterhub
from adapterhub.cli.convert import describe
from adapterhub.cli.options import PATH, STRENGTHS, TARGET, as_json, blocks, db, debug, exclude, include, strong_path
from adapterhub.cli.recording import is_kept, keep
from adapterhub.cli.terminal import write, write_json


@click.command("unmerge", epilog=STRENGTHS)
@click.argument("merged", metavar="MERGED", type=PATH)
@click.argument("adapters", metavar="[ADAPTER[:UNET[:TE]]...]", nargs=-1)
@click.option("-o", "target", metavar="OUT", type=TARGET, required=True, help="The model to write.")
@click.option("--undo", metavar="FILE", type=PATH, help="The file that merge --undo wrote: the base, bit for bit.")
@blocks
@include
@exclude
@click.option("--architecture", metavar="NAME", help="Say what MERGED is, where its keys leave that open.")
@click.option("--allow-loss", is_flag=True, help="Leave out what does not fit, and say so.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and write nothing.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@click.option(
    "--no-check", is_flag=True, help="With --json, without --undo: do not read OUT again; its sha256 is not known then."
)
@db
@as_json
@debug
def command(
    merged: Path, adapters: tuple[str, ...], target: str, no_check: bool, db: Path | None, as_json: bool, **options: Any
) -> None:
    given = [strong_path(adapter) for adapter in adapters]
    done = adapterhub.unmerge(merged, given, target, check=(as_json or is_kept(db)) and not no_check, **options)
    keep(done, db)
    write_json(done) if as_json else write("\n".join(describe(done)))
