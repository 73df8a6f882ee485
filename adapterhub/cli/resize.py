"""adapterhub resize SRC -o DST (--rank R | --tolerance E | --size MB | --energy E)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import adapterhub
from adapterhub.cli.options import PATH
from adapterhub.cli.writing import dtype, rank, show, tolerance, writing


@click.command("resize")
@click.argument("source", metavar="SRC", type=PATH)
@rank
@tolerance
@click.option(
    "--size", metavar="MB", type=float, help="The ranks that keep most of the change in a file of at most MB."
)
@click.option("--energy", metavar="E", type=float,
              help="The smallest ranks that keep a share E of each module's squared norm.")  # fmt: skip
@dtype
@writing
def command(source: Path, target: str, db: Path | None, as_json: bool, **options: Any) -> None:
    show(adapterhub.resize(source, target, **options), db=db, as_json=as_json)
