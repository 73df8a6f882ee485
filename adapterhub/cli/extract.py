"""adapterhub extract TUNED BASE -o DST (--rank R | --tolerance E)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import adapterhub
from adapterhub.cli.options import PATH, variant
from adapterhub.cli.writing import dtype, rank, show, tolerance, writing


@click.command("extract")
@click.argument("tuned", metavar="TUNED", type=PATH)
@click.argument("base", metavar="BASE", type=PATH)
@rank
@tolerance
@click.option("--biases", is_flag=True, help="Also what biases changed by.")
@click.option("--norms", is_flag=True, help="Also what normalisations changed by.")
@dtype
@variant
@writing
def command(tuned: Path, base: Path, target: str, db: Path | None, as_json: bool, **options: Any) -> None:
    show(adapterhub.extract(tuned, base, target, **options), db=db, as_json=as_json)
