"""adapterhub scale SRC FACTOR -o DST"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import adapterhub
from adapterhub.cli.options import PATH
from adapterhub.cli.writing import show, writing


@click.command("scale", context_settings={"ignore_unknown_options": True})  # a negative number is no option
@click.argument("source", metavar="SRC", type=PATH)
@click.argument("factor", type=float)
@click.option("--te", metavar="FACTOR", type=float, help="Another factor for the text encoders of a LoRA.")
@click.option("--into", type=click.Choice(["alpha", "weights"]),
              help="Where it goes in a LoRA: into alpha, which loses nothing and is usual, or the weights.")  # fmt: skip
@writing
def command(source: Path, factor: float, target: str, db: Path | None, as_json: bool, **options: Any) -> None:
    show(adapterhub.scale(source, target, factor, **options), db=db, as_json=as_json)
