"""`watch`: the registry follows what happens in folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event

from adapterhub.documents import Indexing
from adapterhub.registry import places
from adapterhub.registry.database import place
from adapterhub.registry.index import index, known_roots


def watch(
    *paths: Path | str, db: Path | str | None = None, jobs: int | None = None, stop: Event | None = None
) -> Iterator[Indexing]:
    """Indexes `paths` (those that were indexed before, if none are given), and again whatever changes in them, until `stop` is
    set. Tells what every run learned.
    """
    roots = [place(path) for path in paths] or known_roots(db)
    yield index(*roots, db=db, jobs=jobs)
    for changes in places.watch(roots, stop):
        touched = [
            root for root in roots if any(path.is_relative_to(root) or root.is_relative_to(path) for path in changes)
        ]
        yield index(*(touched or roots), db=db, jobs=jobs)
