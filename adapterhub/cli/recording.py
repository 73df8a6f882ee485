"""What a command wrote is kept in the registry, where there is one: --db, $ADAPTERHUB_DB, or the user's own if that was made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import adapterhub
from adapterhub.cli.faults import explain
from adapterhub.cli.terminal import note

if TYPE_CHECKING:
    from adapterhub.documents import Conversion, HeaderMetadata, Training


def is_kept(db: Path | None) -> bool:
    """Whether there is a registry to keep it in."""
    from adapterhub.registry.database import exists

    return db is not None or bool(os.environ.get("ADAPTERHUB_DB")) or exists()


@contextmanager
def recording(what: str) -> Iterator[None]:
    """What was "written", "pulled" or "pushed" is there and right, whether recording it inside goes well or not."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, the work was done
        note(f"{what}, but not recorded: {explain(error).message}")


def keep(done: Conversion, db: Path | None) -> None:
    """Records what `done` wrote."""
    if is_kept(db):
        with recording("written"):
            adapterhub.record(done, db=db)


def keep_training(done: Training, db: Path | None) -> None:
    """Records what was trained, and on what."""
    if is_kept(db):
        with recording("written"):
            adapterhub.record_training(done, db=db)


def keep_edit(done: HeaderMetadata, db: Path | None) -> None:
    """Records that a header was edited, so that the file is still found by the sha256 that it had."""
    if done.after is not None and is_kept(db):
        with recording("written"):
            adapterhub.record_edit(done, db=db)
