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

import adapterhub.layouts as layouts
from adapterhub.adapter import Kind, Module
from adapterhub.documents import Conversion
from adapterhub.documents import Source as SourceDocument
from adapterhub.layouts.base import Layout
from adapterhub.layouts.embedding.dictionary import numbers
from adapterhub.layouts.embedding.layout import NAME, STEM, TOKEN
from adapterhub.metadata import HASHED
from adapterhub.operations.base import Base
from adapterhub.operations.delivery import Report, deliver, digest_of
from adapterhub.operations.embedding.combine import labelled
from adapterhub.operations.embedding.make import Change, make
from adapterhub.operations.proof import Proof
from adapterhub.operations.source import Source, open_adapter
from adapterhub.operations.wish import Wish

USUAL = "kohya"
"""The layout where none is named and the source's own is not written under such a name."""
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
            wish = replace(wish, to=_usual(opened[0].layout, output.target))
        _, request = wish.met(Kind.EMBEDDING, opened[0].layout)
        source = join(opened, output.target) if joined else opened[0]
        ignored = [_place(one, name) if joined else name for one in opened for name in numbers(one.package)]
        made = make(source, request, change, ignored)
        place = wish.place(made.encoded.package)
        report = Report(wish, place, request.layout.name, source, made, started)
        if output.dry_run:
            return _told(report.document(dry_run=True), command, paths, [None] * len(paths))
        proof = Proof(source, made, Base(made.adapter.architecture, {}), measured=True)
        digest = deliver(made, place, output.force, source, proof)
        return _told(report.document(None, digest, proof.gap), command, paths, list(map(digest_of, opened)))


def _told(done: Conversion, command: Command, paths: Sequence[Path], digests: Sequence[str | None]) -> Conversion:
    read = [SourceDocument(path=str(path), sha256=digest) for path, digest in zip(paths, digests, strict=True)]
    return done.model_copy(update={"command": command, "source": read[0], "inputs": read if len(read) > 1 else []})


def _usual(own: Layout, target: Path | str) -> str:
    """The source's own layout, if that is written under such a name."""
    suffix = Path(target).suffix.lower()
    known = {suffix for layout in layouts.every(Kind.EMBEDDING) for suffix in layout.containers}
    return own.name if own.writes and (suffix in own.containers or suffix not in known) else USUAL


def join(opened: Sequence[Source], target: Path | str) -> Source:
    """All inputs as one, called as `target` is: their tokens labelled, and the fields kept in which they agree."""
    readings = [source.reading for source in opened]
    modules = {Module(part, labelled(number, token)): roles for number, reading in enumerate(readings)
               for (part, token), roles in reading.modules.items()}  # fmt: skip
    names = {Module(part, labelled(number, token)): {role: _place(source, name) for role, name in named.items()}
             for number, source in enumerate(opened) for (part, token), named in source.reading.names.items()}  # fmt: skip
    fields = {name: text for name, text in readings[0].metadata.items()
              if name not in _ITS_OWN and all(reading.metadata.get(name) == text for reading in readings)}  # fmt: skip
    fields["modelspec.merged_from"] = ", ".join(source.package.path.stem for source in opened if source.package.path)
    packages = [source.package for source in opened]
    package = replace(
        packages[0],
        path=Path(target),
        problems=tuple(problem for package in packages for problem in package.problems),
        paths={str(path): path for package in packages for path in package.paths.values()},
        sources=tuple(source for package in packages for source in package.sources),
    )
    reading = replace(readings[0], modules=modules, names=names, metadata=fields)
    problems = tuple(problem.model_copy(update={"where": _place(source, problem.where)})
                     for source in opened for problem in source.problems)  # fmt: skip
    return Source(package, opened[0].identity, reading, problems)


def _place(source: Source, name: str) -> str:
    """Where a tensor lies, among those of several sources."""
    return f"{source.package.path}:{name}"
