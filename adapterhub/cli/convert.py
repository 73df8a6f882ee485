"""adapterhub convert SRC -o DST (--to LAYOUT | --for TOOL)"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import adapterhub
from adapterhub.cli.options import PATH, TARGET, as_json, base, db, debug, size, variant
from adapterhub.cli.recording import is_kept, keep
from adapterhub.cli.terminal import columns, counts, in_bytes, number, problems, write, write_json

if TYPE_CHECKING:
    from adapterhub.documents import Conversion, LedgerEntry

SHOWN = 8
"""How many entries that were dropped for one reason, and approximated modules, are shown to people; --json has them all."""


@click.command("convert")
@click.argument("source", metavar="SRC", type=PATH)
@click.option("-o", "target", metavar="DST", type=TARGET, required=True, help="The file, or a folder (DIR/), to write.")
@click.option("--to", metavar="LAYOUT", help="The layout to write: see adapterhub layouts.")
@click.option("--for", "for_tool", metavar="TOOL", help="Choose the layout by the tool that will read it.")
@click.option("--as", "as_algorithm", type=click.Choice(["lora", "full"]), help="Rewrite other algorithms as this one.")
@click.option(
    "--rank", metavar="R", type=click.IntRange(min=1), help="With --as lora: the rank, if it may be approximate."
)
@click.option("--dtype", type=click.Choice(["fp32", "fp16", "bf16"]), help="Cast the numbers.")
@click.option("--token", metavar="TEXT", help="An embedding's new token.")
@click.option("--image", metavar="PICTURE", type=PATH, help="With --to a1111-image: the picture to write it onto.")
@click.option(
    "--extract-embeddings", is_flag=True, help="Write the embeddings that travel in a LoRA, and nothing else."
)
@click.option("--fit", is_flag=True, help="Fit a hypernetwork that is not linear by least squares, to fold it.")
@click.option("--prune", is_flag=True, help="Of a whole model: leave out what only training needs.")
@click.option("--ema", is_flag=True, help="Of a whole model: the moving averages instead of the weights.")
@click.option("--vae", metavar="FILE", type=PATH, help="Of a whole model: the VAE of another file.")
@click.option(
    "--vae-dtype", type=click.Choice(["fp32", "fp16", "bf16"]), help="Of a whole model: another dtype for its VAE."
)
@click.option("--only", metavar="COMPONENT", help="Of a whole model: one component, as unet, vae, text_encoder.")
@click.option(
    "--shard-size", metavar="SIZE", callback=size, help="Of a diffusers folder: files of at most so much, as 5GB."
)
@click.option("--tokenizer", metavar="DIR", type=PATH, help="Of a diffusers folder: take the tokenizers from here.")
@click.option(
    "--config", metavar="DIR", type=PATH, help="Of a diffusers folder: take the configurations from this one."
)
@click.option("--verify", is_flag=True, help="Of a whole model: read every byte back and compare it.")
@click.option("--architecture", metavar="NAME", help="Say what it is for, where its keys leave that open.")
@variant
@base
@click.option("--allow-loss", is_flag=True, help="Drop what the layout has no place for, and list it.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and write nothing.")
@click.option("--force", is_flag=True, help="Replace DST if it exists.")
@click.option(
    "--no-check",
    is_flag=True,
    help="Read nothing twice: neither the error nor, with --json, the sha256 of the files is known then.",
)
@db
@as_json
@debug
def command(source: Path, target: str, no_check: bool, db: Path | None, as_json: bool, **options: Any) -> None:
    done = adapterhub.convert(source, target, check=not no_check, digests=as_json or is_kept(db), **options)
    keep(done, db)
    write_json(done) if as_json else write("\n".join([*describe(done), *approximated(done)]))


def describe(done: Conversion) -> list[str]:
    """Where it went, the ledger in short, the proof, and whatever was dropped or odd."""
    foretold = done.forecast
    error = "" if done.max_error is None else f", max error {number(done.max_error)} over {done.modules} modules"
    rows = [
        *(("from", read.path) for read in done.inputs or [done.source]),
        ("would write" if done.dry_run else "to", f"{done.target.path} ({done.target.layout})"),
        ("ledger", counts({action: n for action, n in done.summary.items() if n}) or "nothing to do"),
        ("proof", f"{done.exactness}{error or ', not measured'}"),
        *([("would take", f"{in_bytes(done.size)}, {in_bytes(foretold.memory)} of memory, about {foretold.seconds:.3g} s")]
          if foretold else ()),
    ]  # fmt: skip
    return columns(rows) + dropped(done.entries) + problems(done.problems)


def approximated(done: Conversion) -> list[str]:
    """The error over all modules, and those that it is largest in."""
    if not done.approximations:
        return []
    worst = sorted(done.approximations, key=lambda found: -found.error)[:SHOWN]
    rows = [("  module", "rank", "error", "captured")]
    rows += [(f"  {found.module}", str(found.rank), number(found.error), f"{found.captured:.2%}") for found in worst]
    overall = "" if done.relative_error is None else f", relative error {number(done.relative_error)}"
    return [f"{len(done.approximations)} modules approximated{overall}; the worst:", *columns(rows)]


def dropped(entries: list[LedgerEntry]) -> list[str]:
    """What was left out and why; of many for one reason the first, and how many there are."""
    by_reason: dict[str | None, list[str]] = {}
    for entry in entries:
        if entry.action == "drop":
            by_reason.setdefault(entry.reason, []).append(", ".join(entry.source))
    rows = []
    for reason, places in by_reason.items():
        shown = places if len(places) <= SHOWN else [f"{places[0]} and {len(places) - 1} more"]
        rows += [(f"  drop {place}:", reason) for place in shown]
    return columns(rows) if rows else []
