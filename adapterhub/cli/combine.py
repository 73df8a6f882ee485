"""adapterhub combine ADAPTER[:WEIGHT]... -o DST"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import adapterhub
from adapterhub.cli.options import weighted_path
from adapterhub.cli.writing import dtype, rank, show, tolerance, writing


@click.command("combine")
@click.argument("weighted", metavar="ADAPTER[:WEIGHT]...", nargs=-1, required=True)
@rank
@tolerance
@click.option("--method", type=click.Choice(["linear", "svd", "ties", "dare"]), default="linear", show_default=True,
              help="Add what they change, exactly unless a rank is given (linear) or always approximated (svd); or merge "
                   "what they change by TIES or DARE, and approximate that.")  # fmt: skip
@click.option("--density", metavar="D", type=float, help="With ties, dare: the share of the numbers that is kept.")
@click.option("--seed", metavar="N", type=int, default=0, show_default=True, help="With dare: what chance starts from.")
@dtype
@writing
def command(weighted: tuple[str, ...], target: str, db: Path | None, as_json: bool, **options: Any) -> None:
    show(adapterhub.combine([*map(_term, weighted)], target, **options), db=db, as_json=as_json)


def _term(text: str) -> tuple[Path, float]:
    """PATH or PATH:WEIGHT, and a word for who gives two weights, as `merge` takes them."""
    path, weight = weighted_path(text)
    inner, _ = weighted_path(str(path))
    if not path.exists() and inner.exists():
        raise click.BadParameter(f"{inner}: one weight, for UNet and text encoders alike; scale --te makes them differ")
    return path, weight
