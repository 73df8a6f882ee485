"""adapterhub show REF"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import adapterhub
from adapterhub.cli.options import as_json, db, debug
from adapterhub.cli.rows import ref
from adapterhub.cli.terminal import columns, counts, in_bytes, problems, trained, write, write_json

if TYPE_CHECKING:
    from adapterhub.documents import Record

_LONGEST = 200
"""Characters of a value that people are shown."""


@click.command("show")
@ref
@db
@as_json
@debug
def command(ref: str, db: Path | None, as_json: bool) -> None:
    found = adapterhub.show(ref, db=db)
    write_json(found) if as_json else write("\n".join(describe(found)))


def describe(found: Record) -> list[str]:
    """Everything but the metadata, a line each."""
    rows = [
        ("record", f"#{found.id} {found.name}"),
        ("path", found.path),
        ("kind", found.kind),
        ("layout", found.layout or ""),
        ("container", found.container or ""),
        ("architecture", " ".join(filter(None, (found.architecture, found.variant)))),
        ("refused", f"{found.refused}: {found.reason}" if found.refused else ""),
        ("missing", f"since {found.missing}" if found.missing else ""),
        ("algorithms", counts(found.algorithms)),
        ("components", counts(found.components)),
        ("ranks", counts(found.ranks)),
        ("words", ", ".join(found.words)),
        ("tags", ", ".join(found.tags)),
        ("size", f"{in_bytes(found.size)}, changed {found.modified}, known since {found.added}"),
        ("fingerprint", found.fingerprint or ("" if found.hashed else "not read whole yet")),
        *((name, digits) for file in found.files or () for name, digits in file.hashes.items()),
        *((f"{name} ({told.origin})", _short(told.value)) for name, all_ in (found.facts or {}).items() for told in all_),
        *((file.role, file.path) for file in found.files or () if file.role != "content"),
        ("trained", trained(found.metadata or {})),
        ("metadata", f"{len(found.metadata)} fields" if found.metadata else ""),
    ]  # fmt: skip
    return columns([row for row in rows if row[1]]) + problems(found.problems)


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
