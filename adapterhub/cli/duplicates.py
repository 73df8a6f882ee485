"""adapterhub duplicates"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import adapterhub
from adapterhub.cli.options import as_json, db, debug
from adapterhub.cli.terminal import columns, in_bytes, note, number, write, write_json

if TYPE_CHECKING:
    from adapterhub.documents import Group

_TITLES = {"file": "the same file", "adapter": "the same adapter in other files", "cast": "likely the same in another dtype",
           "relatives": "relatives, as epochs of one training are"}  # fmt: skip


@click.command("duplicates")
@click.option("--confirm", is_flag=True, help="Compare likely casts module by module, which reads them.")
@click.option("--no-relatives", is_flag=True, help="Leave out what is only similar.")
@db
@as_json
@debug
def command(confirm: bool, no_relatives: bool, db: Path | None, as_json: bool) -> None:
    found = adapterhub.duplicates(db=db, relatives=not no_relatives, confirm=confirm)
    if as_json:
        write_json(found)
        return
    write("\n".join(line for group in found.groups for line in describe(group)) or "nothing is there twice")
    if found.waiting:
        note(f"{found.waiting} files are not read whole yet and in no group: adapterhub index goes on with them.")


def describe(group: Group) -> list[str]:
    """A title, and the members below it."""
    known = {"file": group.sha256 or "", "cast": _verdict(group), "relatives": f"cosine ≥ {number(group.similarity)}"}
    rows = [
        (f"  #{one.id}", one.layout or "", "/".join(one.dtypes), in_bytes(one.size), one.path) for one in group.members
    ]
    lines = [f"{_TITLES[group.how]} {known.get(group.how, '')}".rstrip(), *columns(rows)]
    if group.how == "file" and len({one.inode for one in group.members}) == 1:
        lines.append("  hard links: they take the room of one")
    return lines


def _verdict(group: Group) -> str:
    if group.confirmed is None:
        return "(adapterhub diff says, or --confirm)"
    return f"({'confirmed' if group.confirmed else 'denied'} by diff: max error {number(group.max_error)})"
