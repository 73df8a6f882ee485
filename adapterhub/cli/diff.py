"""adapterhub diff A B"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import adapterhub
from adapterhub.cli.options import PATH, as_json, base, debug
from adapterhub.cli.terminal import columns, escape, number, paint, write, write_json

if TYPE_CHECKING:
    from adapterhub.documents import Difference

SHOWN = 20
"""How many of the modules that differ are shown to people; --json has them all."""


@click.command("diff")
@click.argument("a", metavar="A", type=PATH)
@click.argument("b", metavar="B", type=PATH)
@as_json
@base
@click.option("--tolerance", type=click.FloatRange(min=0.0), default=0.0, help="The relative error to let pass.")
@debug
def command(a: Path, b: Path, as_json: bool, base: Path | None, tolerance: float) -> int:
    found = adapterhub.diff(a, b, base=base, tolerance=tolerance)
    write_json(found) if as_json else write("\n".join(describe(found)))
    return int(not found.equal)


def describe(found: Difference) -> list[str]:
    """The verdict, the modules that only one side has, and the worst of those that differ."""
    verdict = paint("the same", "green") if found.equal else paint("different", "red")
    rows = [("module", "max", "relative")]
    rows += [
        (f"{worst.component}.{worst.module}", number(worst.max_abs), number(worst.relative))
        for worst in found.differences[:SHOWN]
    ]
    more = len(found.differences) - SHOWN
    return [
        f"{verdict}: {found.modules} modules compared, max error {number(found.max_error)}",
        *(f"only in {escape(found.a)}: {escape(module)}" for module in found.only_in_a),
        *(f"only in {escape(found.b)}: {escape(module)}" for module in found.only_in_b),
        *(columns(rows) if found.differences else ()),
        *([f"... and {more} more"] if more > 0 else ()),
    ]
