"""watch: what changes in places, as it happens. watchfiles is imported when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from adapterhub.errors import MachineFailure, UsageError
from adapterhub.registry.places import names
from adapterhub.registry.places.applications import recognised

if TYPE_CHECKING:
    from watchfiles import Change

DEBOUNCE = 1_600
"""Milliseconds for which changes are gathered: a download writes for longer, and its end is a change too."""


def watch(paths: Iterable[Path | str], stop: Event | None = None, *, debounce: int = DEBOUNCE) -> Iterator[set[Path]]:
    """Batches of files and folders that came, changed or went in `paths` until `stop` is set, those whose names matter: models,
    what stands beside them, and folders. Of an application only its places are watched.

    A path that went may be anything. UsageError where there is nothing to watch, MachineFailure where the system refuses.
    """
    import watchfiles

    places = sorted({place for path in paths for place in _places(Path(path).absolute())})
    if missing := [str(place) for place in places if not place.exists()]:
        raise UsageError(f"{missing[0]} is not there", mend="Give folders that are there.")
    if not places:
        raise UsageError("there is nothing to watch", mend="Give one folder or more.")
    try:
        for changes in watchfiles.watch(
            *places,
            watch_filter=_matters,
            debounce=debounce,
            stop_event=stop,
            rust_timeout=1_000,
            raise_interrupt=True,
            ignore_permission_denied=True,
        ):
            yield {Path(path) for _, path in changes}
    except OSError as error:
        raise MachineFailure(f"cannot watch: {error}", mend="On Linux, raise fs.inotify.max_user_watches.") from error


def _places(path: Path) -> list[Path]:
    application = recognised(path)
    return [place.path for place in application.places] if application else [path]


def _matters(change: Change, path: str) -> bool:
    from watchfiles import Change

    name = os.path.basename(path)
    if any(names.skipped(str(above)) for above in (Path(path), *Path(path).parents)):
        return False
    if change == Change.deleted:
        return not name.startswith(".")
    return names.MODEL.fullmatch(name) is not None or names.DOCUMENT.fullmatch(name) is not None or os.path.isdir(path)
