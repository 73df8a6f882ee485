"""adapterhub verify [REF]..."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import adapterhub
from adapterhub.cli.options import as_json, db, debug
from adapterhub.cli.terminal import columns, in_bytes, note, write, write_json

if TYPE_CHECKING:
    from adapterhub.documents import Verification


@click.command("verify")
@click.argument("refs", metavar="[REF]...", nargs=-1)
@click.option("--sample", metavar="N|P%", help="So many files by chance, or such a share: 100, or 5%.")
@click.option("--seed", type=int, metavar="N", help="With --sample: the same files for the same number.")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Processes; as many as there are processors.")
@db
@as_json
@debug
def command(
    refs: tuple[str, ...], sample: str | None, seed: int | None, jobs: int | None, db: Path | None, as_json: bool
) -> int:
    found = adapterhub.verify(*refs, sample=sample, seed=seed, jobs=jobs, db=db)
    if as_json:
        write_json(found)
    else:
        write("\n".join(describe(found)))
        if found.waiting:
            note(f"{found.waiting} records are not read whole yet: adapterhub index goes on with them.")
    return 1 if found.damages else 0


def describe(found: Verification) -> list[str]:
    """A line for each file that differs, and one for all."""
    rows = [(one.what, f"#{one.record}", one.path, one.message) for one in found.damages]
    verdict = f"{len(rows)} are not as recorded" if rows else "all are as recorded"
    return [*columns(rows), f"{found.checked} files, {in_bytes(found.bytes)} read in {found.seconds:.3g} s: {verdict}"]
