"""adapterhub plot FILE -o heat.png"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import adapterhub
from adapterhub.cli.options import PATH, TARGET, as_json, base, debug, variant
from adapterhub.cli.terminal import columns, escape, number, write, write_json

if TYPE_CHECKING:
    from adapterhub.documents.inspection import HeatMap

SHOWN = 10
"""How many modules that could not be measured are shown to people; --json has them all."""
_MEASURES = {"relative": "‖ΔW‖ / ‖W‖", "rms": "‖ΔW‖ / √elements; --base relates it to the weights"}


@click.command("plot")
@click.argument("path", metavar="FILE", type=PATH)
@click.option("-o", "target", metavar="PNG", type=TARGET, required=True, help="The picture to write.")
@base
@variant
@click.option("--architecture", metavar="NAME", help="Say what it is for, where its keys leave that open.")
@click.option("--force", is_flag=True, help="Replace PNG if it exists.")
@as_json
@debug
def command(path: Path, target: str, as_json: bool, **options: Any) -> None:
    heat = adapterhub.plot(path, target, **options)
    write_json(heat) if as_json else write("\n".join(describe(heat)))


def describe(heat: HeatMap) -> list[str]:
    """Where it went, what it shows, the strongest place, and what is not in it."""
    cells = [
        (value, row, column)
        for row, line in zip(heat.rows, heat.values, strict=True)
        for column, value in zip(heat.columns, line, strict=True)
        if value is not None
    ]
    value, row, column = max(cells)
    rows = [
        ("to", heat.target),
        ("shows", _MEASURES[heat.measure]),
        ("strongest", f"{number(value)} in {row}, {column}"),
    ]
    missing = [f"  not measured: {escape(one.component)}.{escape(one.module)}: {escape(one.reason)}"
               for one in heat.unmeasured[:SHOWN]]  # fmt: skip
    more = len(heat.unmeasured) - SHOWN
    return [*columns(rows), *missing, *([f"  ... and {more} more not measured"] if more > 0 else [])]
