"""adapterhub convert SRC -o DST (--to LAYOUT | --for TOOL)"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import adapterhub
from adapterhub.cli.options import PATH, as_json, base, debug
from adapterhub.cli.terminal import columns, counts, number, problems, write, write_json

if TYPE_CHECKING:
    from adapterhub.documents import Conversion, LedgerEntry

SHOWN = 20
"""How many dropped entries are shown to people; --json has them all."""


@click.command("convert")
@click.argument("source", metavar="SRC", type=PATH)
@click.option(
    "-o", "target", metavar="DST", type=click.Path(), required=True, help="The file, or a folder (DIR/), to write."
)
@click.option("--to", metavar="LAYOUT", help="The layout to write: see adapterhub layouts.")
@click.option("--for", "for_tool", metavar="TOOL", help="Choose the layout by the tool that will read it.")
@click.option("--as", "as_algorithm", type=click.Choice(["lora", "full"]), help="Rewrite other algorithms as this one.")
@click.option("--rank", type=click.IntRange(min=1), help="With --as lora: the rank, if it may be approximate.")
@click.option("--dtype", type=click.Choice(["fp32", "fp16", "bf16"]), help="Cast the numbers.")
@click.option("--token", metavar="TEXT", help="An embedding's new token.")
@click.option("--image", metavar="PICTURE", type=PATH, help="With --to a1111-image: the picture to write it onto.")
@click.option(
    "--extract-embeddings", is_flag=True, help="Write the embeddings that travel in a LoRA, and nothing else."
)
@click.option("--fit", is_flag=True, help="Fit a hypernetwork that is not linear by least squares, to fold it.")
@click.option("--architecture", metavar="NAME", help="Say what it is for, where its keys leave that open.")
@base
@click.option("--allow-loss", is_flag=True, help="Drop what the layout has no place for, and list it.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and write nothing.")
@click.option("--force", is_flag=True, help="Replace DST if it exists.")
@click.option(
    "--no-check", is_flag=True, help="Read nothing twice: neither the error nor the sha256 of the files is known then."
)
@as_json
@debug
def command(source: Path, target: str, no_check: bool, as_json: bool, **options: Any) -> None:
    done = adapterhub.convert(source, target, check=not no_check, **options)
    write_json(done) if as_json else write("\n".join(describe(done)))


def describe(done: Conversion) -> list[str]:
    """Where it went, the ledger in short, the proof, and whatever was dropped or odd."""
    error = "" if done.max_error is None else f", max error {number(done.max_error)} over {done.modules} modules"
    rows = [
        *(("from", read.path) for read in done.inputs or [done.source]),
        ("would write" if done.dry_run else "to", f"{done.target.path} ({done.target.layout})"),
        ("ledger", counts({action: n for action, n in done.summary.items() if n}) or "nothing to do"),
        ("proof", f"{done.exactness}{error or ', not measured'}"),
    ]
    return columns(rows) + dropped(done.entries) + problems(done.problems)


def dropped(entries: list[LedgerEntry]) -> list[str]:
    """What was left out and why, the first of many."""
    drops = [(f"  drop {', '.join(entry.source)}:", entry.reason) for entry in entries if entry.action == "drop"]
    more = [f"  ... and {len(drops) - SHOWN} more"] if len(drops) > SHOWN else []
    return columns(drops[:SHOWN]) + more if drops else []
