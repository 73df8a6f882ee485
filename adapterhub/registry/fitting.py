"""`list --for`: which adapters a whole model takes, and which programs read them, as far as the registry knows without a look."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from adapterhub.adapter import Kind
from adapterhub.errors import NotAnAdapter, NotFound
from adapterhub.operations.fit.facts import facts_of_record
from adapterhub.operations.fit.verdicts import readers
from adapterhub.operations.inspect import inspect
from adapterhub.registry.database import reading
from adapterhub.registry.reference import resolve

Counts = tuple[tuple[str, int], ...]


def architecture_of(model: str, *, db: Path | str | None = None) -> str:
    """The architecture of a whole model: a record, or a file or folder. NotAnAdapter for anything else."""
    kind, architecture = _known(model, db) or _seen(Path(model))
    if kind != Kind.CHECKPOINT or architecture is None:
        raise NotAnAdapter(
            f"{model} is no whole model of a known architecture", mend="Give a checkpoint, or --architecture."
        )
    return architecture


def with_readers(texts: Iterable[str]) -> Iterator[str]:
    """Records, each as its JSON, with what every program makes of them."""
    for text in texts:
        told = json.loads(text)
        found = _readers(told["kind"], told["layout"], told["architecture"],
                         tuple(told.get("algorithms", {}).items()), tuple(told.get("components", {}).items()))  # fmt: skip
        yield f'{text[:-1]}, "readers": {json.dumps(found)}}}'


@lru_cache(maxsize=4096)
def _readers(
    kind: str, layout: str | None, architecture: str | None, algorithms: Counts, components: Counts
) -> dict[str, str]:
    facts = facts_of_record(Kind(kind), layout, architecture, dict(algorithms), dict(components))
    return {verdict.reader: verdict.status for verdict in readers(facts)}


def _known(model: str, db: Path | str | None) -> tuple[str, str | None] | None:
    with reading(db) as connection:
        try:
            record = resolve(connection, model)
        except NotFound:
            return None
        row = connection.execute("SELECT kind, architecture FROM records WHERE id = ?", (record,)).fetchone()
        return row["kind"], row["architecture"]


def _seen(path: Path) -> tuple[str, str | None]:
    found = inspect(path)
    return found.kind, found.architecture
