"""Embeddings read, changed, written in any layout, and the file read back: what merging, scaling and trimming have in common.

One straight line: open → join the inputs into one adapter → change (`combine.py`) → make, write and prove as `convert` does.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from adapterhub.adapter import Kind, Module
from adapterhub.documents import Conversion
from adapterhub.layouts.embedding.dictionary import numbers
from adapterhub.layouts.embedding.layout import NAME, STEM, TOKEN
from adapterhub.metadata import HASHED, utf8
from adapterhub.operations import joining
from adapterhub.operations.base import Base
from adapterhub.operations.delivery import Report, deliver, digest_of, of_inputs
from adapterhub.operations.embedding.combine import labelled
from adapterhub.operations.embedding.make import Change, make
from adapterhub.operations.proof import Proof
from adapterhub.operations.source import Source, open_adapter
from adapterhub.operations.wish import USUAL, Wish, usual

_ONLY = frozenset({Kind.EMBEDDING})
_ITS_OWN = HASHED | {TOKEN, STEM, NAME, "name", "step", "modelspec.title", "modelspec.trigger_phrase", "modelspec.date"}
"""Fields that are about one embedding, and not about what is merged of it."""

Command = Literal["embedding merge", "embedding scale", "embedding trim"]


@dataclass(frozen=True)
class Output:
    """Where the result goes, and how."""

    target: Path | str
    to: str | None
    for_tool: str | None
    token: str | None
    dtype: str | None
    dry_run: bool
    force: bool


def rework(
    command: Command, paths: Sequence[Path], output: Output, change: Change, *, joined: bool = False,
    forgiven: Collection[str] = (),
) -> Conversion:  # fmt: skip
    """Writes what `change` makes of the embeddings at `paths`, `joined` as `join` does or a single one as it is.

    Errors of a source whose code is in `forgiven` do not count: `change` mends them.
    """
    started = time.perf_counter()
    named = output.to or output.for_tool
    wish = Wish(source=paths[0], target=str(output.target), to=output.to if named else USUAL, for_tool=output.for_tool,
                dtype=output.dtype, token=output.token, force=output.force)  # fmt: skip
    wish.check()
    with ExitStack() as stack:
        opened = [stack.enter_context(open_adapter(path, kinds=_ONLY, forgiven=forgiven)) for path in paths]
        if not named:
            wish = replace(wish, to=usual(opened[0].layout, Kind.EMBEDDING, output.target))
        _, request = wish.met(Kind.EMBEDDING, opened[0].layout)
        source = join(opened, output.target) if joined else opened[0]
        ignored = [joining.place(one, name) if joined else name for one in opened for name in numbers(one.package)]
        made = make(source, request, change, ignored)
        place = wish.place(made.encoded.package)
        report = Report(wish, place, request.layout.name, source, made, started)
        if output.dry_run:
            return of_inputs(report.document(dry_run=True), command, paths, [None] * len(paths))
        proof = Proof(source, made, Base(made.adapter.architecture, {}), measured=True)
        digest = deliver(made, place, output.force, source, proof)
        return of_inputs(report.document(None, digest, proof.gap), command, paths, list(map(digest_of, opened)))


def join(opened: Sequence[Source], target: Path | str) -> Source:
    """All inputs as one, called as `target` is: their tokens labelled, and the fields kept in which they agree."""
    source = joining.joined(
        opened, target, lambda n, module: Module(module.component, labelled(n, module.module)), _ITS_OWN
    )
    merged = utf8(", ".join(source.package.path.stem for source in opened if source.package.path))
    metadata = source.reading.metadata | {"modelspec.merged_from": merged}
    return replace(source, reading=replace(source.reading, metadata=metadata))
