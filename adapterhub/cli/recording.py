"""What a command wrote is kept in the registry, where there is one: --db, $ADAPTERHUB_DB, or the user's own if that was made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import adapterhub
from adapterhub.cli.faults import explain
from adapterhub.cli.terminal import note

if TYPE_CHECKING:
    from adapterhub.documents import Conversion, HeaderMetadata


def is_kept(db: Path | None) -> bool:
    """Whether there is a registry to keep it in."""
    from adapterhub.registry.database import exists

    return db is not None or bool(os.environ.get("ADAPTERHUB_DB")) or exists()


def keep(done: Conversion, db: Path | None) -> None:
    """Records what `done` wrote. The file is there and right whether that goes well or not."""
    if not is_kept(db):
        return
    try:
        adapterhub.record(done, db=db)
    except Exception as error:  # noqa: BLE001 - whatever it is, the file was written
        note(f"written, but not recorded: {explain(error).message}")


def keep_edit(done: HeaderMetadata, db: Path | None) -> None:
    """Records that a header was edited, so that the file is still found by the sha256 that it had."""
    if done.after is None or not is_kept(db):
        return
    try:
        adapterhub.record_edit(done, db=db)
    except Exception as error:  # noqa: BLE001 - whatever it is, the file was written
        note(f"written, but not recorded: {explain(error).message}")
