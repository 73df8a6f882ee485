"""adapterhub hypernetwork scale|merge"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from adapterhub.cli.convert import describe
from adapterhub.cli.options import PATH, TARGET, as_json, db, debug, weighted_path
from adapterhub.cli.recording import keep
from adapterhub.cli.terminal import write, write_json

if TYPE_CHECKING:
    from adapterhub.documents import Conversion

_target = click.option("-o", "target", metavar="DST", type=TARGET, required=True, help="The file to write.")
_to = click.option("--to", metavar="LAYOUT", help="The layout to write, if the suffix is not to say it.")
_force = click.option("--force", is_flag=True, help="Replace DST if it exists.")


@click.group("hypernetwork")
@debug
def command() -> None:
    pass


@command.command("scale", context_settings={"ignore_unknown_options": True})  # a negative number is no option
@click.argument("source", metavar="SRC", type=PATH)
@click.argument("factor", type=float)
@_target
@_to
@_force
@db
@as_json
@debug
def scale(
    source: Path, factor: float, target: str, to: str | None, force: bool, db: Path | None, as_json: bool
) -> None:
    """Write SRC with FACTOR times its effect at strength 1."""
    from adapterhub import hypernetworks

    _show(hypernetworks.scale(source, target, factor, to=to, force=force), db=db, as_json=as_json)


@command.command("merge")
@click.argument("sources", metavar="SRC[:WEIGHT]...", nargs=-1, required=True)
@_target
@click.option(
    "--method",
    type=click.Choice(["sum", "chain"]),
    default="sum",
    help="sum: add up what they change; chain: one after the other, as A1111 does, for linear ones.",
)
@_to
@_force
@db
@as_json
@debug
def merge(
    sources: tuple[str, ...], target: str, method: str, to: str | None, force: bool, db: Path | None, as_json: bool
) -> None:
    """Write several hypernetworks, each times its WEIGHT, as one."""
    from adapterhub import hypernetworks

    weighted = [weighted_path(source) for source in sources]
    done = hypernetworks.merge(weighted, target, method=method, to=to, force=force)
    _show(done, db=db, as_json=as_json)


def _show(done: Conversion, *, db: Path | None, as_json: bool) -> None:
    keep(done, db)
    write_json(done) if as_json else write("\n".join(describe(done)))
