"""`export --sidecar`: what the registry knows is written beside the files, for the programs that look there."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from adapterhub.documents import SidecarChange, SidecarExport, SidecarGap
from adapterhub.errors import AdapterhubError, UnknownName, UsageError
from adapterhub.registry import storing
from adapterhub.registry.database import legible, reading, restored, stored
from adapterhub.registry.facts import FAMILIES, Value, export
from adapterhub.registry.facts.precedence import settled
from adapterhub.registry.find import Filter, conditions
from adapterhub.registry.reference import resolve

EVERYTHING = Filter()


def export_sidecars(
    family: str, *refs: str, wanted: Filter = EVERYTHING, dry_run: bool = False, db: Path | str | None = None
) -> list[SidecarExport]:
    """Writes the side-car of `family` (a1111, lora-manager, stability-matrix, civitai) of every record that `refs` name or, without
    any, that `wanted` asks for; see `registry.facts.export`. One that cannot be written says why, and the others are.
    """
    if family not in FAMILIES:
        raise UnknownName("family of side-cars", family, list(FAMILIES))
    with reading(db) as connection:
        ids = [resolve(connection, ref) for ref in refs] if refs else _asked(connection, wanted)
        return [_exported(connection, record, family, dry_run) for record in dict.fromkeys(ids)]


def _asked(connection: sqlite3.Connection, wanted: Filter) -> list[int]:
    where, given = conditions(connection, wanted)
    return [
        row[0]
        for row in connection.execute(f"SELECT id FROM records WHERE {' AND '.join(where) or '1'} ORDER BY path", given)
    ]


def _exported(connection: sqlite3.Connection, record: int, family: str, dry_run: bool) -> SidecarExport:
    path, digest = connection.execute("SELECT path, sha256 FROM records WHERE id = ?", (record,)).fetchone()
    try:
        _require_own(connection, record, restored(path), family)
        done = export(restored(path), storing.facts_of(connection, record), family, dry_run=dry_run, digest=digest)
    except (AdapterhubError, OSError) as error:
        return SidecarExport(model=legible(path), family=family, error=getattr(error, "message", None) or str(error))
    changes = [
        SidecarChange(field=one.field, before=_listed(one.before), after=_listed(one.after)) for one in done.changes
    ]
    gaps = [SidecarGap(field=field, reason=why) for field, why in done.left_out]
    return SidecarExport(model=legible(path), family=family, sidecar=str(done.path), created=done.created, written=done.written,
                         changes=changes, left_out=gaps)  # fmt: skip


def _require_own(connection: sqlite3.Connection, record: int, path: Path, family: str) -> None:
    """Raises UsageError if another file beside it, of the same name but for the suffix, has the same side-car and should be told
    otherwise of there.
    """
    said = _says(connection, record, family)
    stem = path.with_suffix("")
    beside = connection.execute(
        "SELECT id, path FROM records WHERE path > ? AND path < ? AND id != ? AND missing IS NULL ORDER BY path",
        (stored(f"{stem}."), stored(f"{stem}/"), record),
    )
    for other, there in beside.fetchall():
        if restored(there).with_suffix("") == stem and _says(connection, other, family) != said:
            raise UsageError(f"{restored(there).name} beside it has the same side-car, and other facts: "
                             "give one of the two another name")  # fmt: skip


def _says(connection: sqlite3.Connection, record: int, family: str) -> dict[str, Value]:
    """What the side-car of a record would say."""
    held = {row.field for row in FAMILIES[family].rows}
    told = settled(storing.facts_of(connection, record))
    return {field: fact.value for field, fact in told.items() if field in held}


def _listed(value: Value | None) -> Value | list[str] | None:
    return list(value) if isinstance(value, tuple) else value
