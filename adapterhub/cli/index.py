"""adapterhub index PATH..."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

import adapterhub
from adapterhub.cli.options import PATH, as_json, db, debug
from adapterhub.cli.terminal import columns, counts, escape, in_bytes, note, write, write_json

if TYPE_CHECKING:
    from adapterhub.documents import Indexing

_SHOWN = 20
"""Troubles that people are shown."""


@click.command("index")
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=PATH)
@db
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Processes; as many as there are processors.")
@click.option("--no-hash", is_flag=True, help="Identify alone: hashes and fingerprints wait for the next time.")
@click.option("--civitai", is_flag=True, help="Ask Civitai for each file by its hash, and keep the answers.")
@as_json
@debug
def command(
    paths: tuple[Path, ...], db: Path | None, jobs: int | None, no_hash: bool, civitai: bool, as_json: bool
) -> None:
    done = adapterhub.index(*paths, db=db, jobs=jobs, hash=not no_hash, ask=_civitai() if civitai else None)
    if as_json:
        write_json(done)
        return
    write("\n".join(describe(done)))
    for trouble in done.troubles[:_SHOWN]:
        note(f"{escape(trouble.path)}: {escape(trouble.message)}")
    if len(done.troubles) > _SHOWN:
        note(f"… and {len(done.troubles) - _SHOWN} more")


def _civitai() -> Callable[[str], str | None]:
    from adapterhub.hub.civitai import Civitai

    return Civitai().by_hash


def describe(done: Indexing) -> list[str]:
    """What was learned, a line each."""
    found = {name: getattr(done, name) for name in ("new", "changed", "unchanged", "moved", "missing", "refused")}
    rows = [
        ("registry", done.db),
        (
            "found",
            f"{done.found} ({counts({name: count for name, count in found.items() if count})})" if done.found else "0",
        ),
        ("read whole", f"{done.hashed}, {in_bytes(done.bytes)}" if done.hashed else ""),
        ("waiting", f"{done.waiting} to be read whole" if done.waiting else ""),
        ("asked", f"for {done.asked} hashes; {done.told} files are known" if done.asked or done.told else ""),
        ("of", ", ".join(done.applications)),
        ("in", f"{done.seconds:.3g} s"),
    ]
    return columns([row for row in rows if row[1]])
