"""adapterhub merge BASE ADAPTER[:UNET[:TE]]… -o OUT"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import adapterhub
from adapterhub.cli.convert import describe
from adapterhub.cli.options import (
    OUTPUT,
    PATH,
    STRENGTHS,
    TARGET,
    as_json,
    blocks,
    db,
    debug,
    exclude,
    include,
    strong_path,
    variant,
)
from adapterhub.cli.recording import is_kept, keep
from adapterhub.cli.terminal import write, write_json


@click.command("merge", epilog=STRENGTHS)
@click.argument("base", metavar="BASE", type=PATH, required=False)
@click.argument("adapters", metavar="ADAPTER[:UNET[:TE]]...", nargs=-1)
@click.option(
    "-o", "target", metavar="OUT", type=TARGET, required=True, help="The model to write, as BASE is laid out."
)
@blocks
@include
@exclude
@click.option("--dtype", type=click.Choice(["fp32", "fp16", "bf16"]), help="Cast the whole model.")
@click.option(
    "--rounding",
    type=click.Choice(["nearest", "stochastic"]),
    default="nearest",
    show_default=True,
    help="How sums are rounded.",
)
@click.option("--seed", metavar="N", type=click.IntRange(min=0), default=0, show_default=True,
              help="With --rounding stochastic: what chance starts from.")  # fmt: skip
@click.option("--undo", metavar="FILE", type=OUTPUT, help="Also write what restores BASE bit for bit: see unmerge.")
@click.option(
    "--recipe",
    metavar="FILE",
    type=PATH,
    help="In place of BASE and adapters: repeat the merge that this model or recipe tells, to the same bytes.",
)
@click.option("--architecture", metavar="NAME", help="Say what BASE is, where its keys leave that open.")
@variant
@click.option("--allow-loss", is_flag=True, help="Leave out what does not fit and let numbers overflow, and say so.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and write nothing.")
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@click.option("--no-check", is_flag=True, help="With --json: do not read OUT again; its sha256 is not known then.")
@db
@as_json
@debug
def command(
    base: Path | None,
    adapters: tuple[str, ...],
    target: str,
    no_check: bool,
    db: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    given = [strong_path(adapter) for adapter in adapters]
    done = adapterhub.merge(base, given, target, check=(as_json or is_kept(db)) and not no_check, **options)
    keep(done, db)
    write_json(done) if as_json else write("\n".join(describe(done)))
