"""`convert`: an adapter into another layout, every tensor accounted for, and the written file measured against the source.

One straight line: open → make (by kind: `operations/KIND/work.py`) → write → open again and compare. A conversion that only
renames moves bytes and imports no torch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapterhub import files, metadata
from adapterhub.documents import Conversion, Exactness
from adapterhub.documents import Source as SourceDocument
from adapterhub.documents import Target as TargetDocument
from adapterhub.errors import UsageError
from adapterhub.operations import work
from adapterhub.operations.base import base_of
from adapterhub.operations.compare import Gap
from adapterhub.operations.ledger import summary
from adapterhub.operations.proof import Proof
from adapterhub.operations.source import Source, open_adapter, warnings_of
from adapterhub.operations.wish import Wish
from adapterhub.operations.work import NOT_ASKED_FOR, Made

_SAME_NUMBERS = {"copy", "rename", "reshape", "join", "metadata"}


def convert(
    source: Path | str,
    target: Path | str,
    *,
    to: str | None = None,
    for_tool: str | None = None,
    as_algorithm: str | None = None,
    rank: int | None = None,
    dtype: str | None = None,
    base: Path | str | None = None,
    architecture: str | None = None,
    token: str | None = None,
    image: Path | str | None = None,
    extract_embeddings: bool = False,
    fit: bool = False,
    allow_loss: bool = False,
    dry_run: bool = False,
    force: bool = False,
    check: bool = True,
) -> Conversion:
    """Writes the adapter at `source` to `target` in the layout `to`, or in that which `for_tool` reads.

    LoRAs: `as_algorithm` ("lora", "full") changes what a module is made of, with `rank` for an approximation;
    `extract_embeddings` writes the embeddings that travel in the file, and nothing else. Embeddings: `token` renames, `image`
    is the picture that an `a1111-image` is written onto. Hypernetworks: into a layout of LoRAs they are folded for `base`,
    and `fit` allows a least-squares fit of those that are not linear. For all: `dtype` ("fp32", "fp16", "bf16") casts;
    `base` is the model whose weights the result depends on.

    With `dry_run` nothing is written; without `check` nothing is read twice: neither the error nor whole-file digests are
    known. Raises what `adapterhub.errors` lists.
    """
    started = time.perf_counter()
    wish = Wish(Path(source), str(target), to, for_tool, as_algorithm, rank, dtype, token,
                None if image is None else Path(image), extract_embeddings, fit, allow_loss, force)  # fmt: skip
    wish.check()
    with (
        open_adapter(wish.source, architecture=architecture, allow_loss=allow_loss) as opened,
        base_of(Path(base) if base is not None else None, opened.adapter.architecture) as weights,
    ):
        kind, request = wish.met(opened.identity.kind)
        made = work.of(kind).make(opened, request, weights)
        place = wish.place(made.encoded.package)
        report = Report(wish, place, request.layout.name, opened, made, started)
        if dry_run:
            return report.document(dry_run=True)
        with ThreadPoolExecutor(1) as beside:
            hashed = beside.submit(_digest, opened) if check else None
            proof = Proof(opened, made, weights, measured=check)
            digest = _write(made, place, force, opened, proof)
            return report.document(hashed, digest, proof.gap)


def _write(made: Made, target: Path, force: bool, opened: Source, proof: Proof) -> str | None:
    """Writes the package, proves it and only then puts it in place; gives its sha256, None for a folder."""
    package = made.encoded.package
    with _folder_for(target):
        digests = files.write(
            package,
            target,
            force=force,
            hashed=metadata.HASHED,
            sources=list(opened.package.paths.values()),
            prove=proof,
            reread=proof.measured,
        )
    return next(iter(digests.values())) if package.container in files.SINGLE else None


@contextmanager
def _folder_for(target: Path) -> Iterator[None]:
    """The folder of `target`, made if need be, and gone again if nothing came to lie in it."""
    folder = target.parent
    made = not folder.exists()
    if made:
        try:
            folder.mkdir()
        except FileNotFoundError:
            raise UsageError(f"{folder.parent} does not exist", mend="Make the folder, or give another path.") from None
    try:
        yield
    except BaseException:
        if made:
            folder.rmdir()
        raise


def _digest(opened: Source) -> str | None:
    """The sha256 of a source that is one file."""
    paths = opened.package.paths
    return files.sha256(next(iter(paths.values()))) if opened.package.container in files.SINGLE else None


@dataclass(frozen=True)
class Report:
    """What there is to tell, whether it was written or not."""

    wish: Wish
    place: Path
    layout: str
    opened: Source
    made: Made
    started: float

    def document(
        self,
        hashed: Future[str | None] | None = None,
        digest: str | None = None,
        gap: Gap | None = None,
        *,
        dry_run: bool = False,
    ) -> Conversion:
        made = self.made
        return Conversion(
            source=SourceDocument(path=str(self.wish.source), sha256=hashed.result() if hashed else None),
            target=TargetDocument(path=str(self.place), sha256=digest, layout=self.layout),
            exactness=_exactness(made, gap),
            max_error=max(gap.relative, made.error) if gap is not None else None,
            modules=len(made.adapter.modules()),
            entries=made.entries,
            summary=summary(made.entries),
            problems=[*warnings_of(self.opened.package), *self.opened.problems, *made.problems],
            dry_run=dry_run,
            seconds=round(time.perf_counter() - self.started, 3),
        )


def _exactness(made: Made, gap: Gap | None) -> Exactness:
    """By what was done and, where it was measured, by what came of it."""
    actions = {entry.action for entry in made.entries if entry.reason != NOT_ASKED_FOR}
    if "drop" in actions:
        return "partial"
    if actions <= _SAME_NUMBERS or (gap is not None and gap.max_abs == 0.0 and not made.error):
        return "bit-exact"
    return "approximate" if made.approximate or "cast" in actions else "exact"
