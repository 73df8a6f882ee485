"""adapterhub doctor"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import adapterhub
from adapterhub.cli.options import as_json, db, debug
from adapterhub.cli.terminal import COLOURS, escape, paint, write, write_json

if TYPE_CHECKING:
    from adapterhub.documents import Diagnosis, Finding


@click.command("doctor")
@click.option(
    "--rebuild", is_flag=True, help="First make again what follows from other rows: search index, words, tags."
)
@db
@as_json
@debug
def command(rebuild: bool, db: Path | None, as_json: bool) -> int:
    found = adapterhub.doctor(db=db, rebuild=rebuild)
    write_json(found) if as_json else write("\n".join(describe(found)))
    return 1 if any(one.severity == "error" for one in found.findings) else 0


def describe(found: Diagnosis) -> list[str]:
    """What was looked at, and the findings."""
    known = f"{found.records} records, tables of version {found.version}" if found.version else "none"
    lines = [f"registry {escape(found.db)}: {known}, SQLite {found.sqlite}"]
    if found.rebuilt:
        lines.append(f"made again for {found.rebuilt} records")
    return (
        [*lines, *(line for one in found.findings for line in _described(one))]
        if found.findings
        else [*lines, "all is well"]
    )


def _described(one: Finding) -> list[str]:
    severity = paint(one.severity, COLOURS.get(one.severity, "blue"))
    lines = [f"{severity} {one.code}: {f'{one.count}: ' if one.count > 1 else ''}{escape(one.message)}"]
    lines += [f"    {escape(example)}" for example in one.examples]
    return [*lines, f"  → {escape(one.mend)}"] if one.mend else lines
