"""What was made is written, proved and told."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapterhub import files
from adapterhub.adapter import Kind
from adapterhub.documents import Command, Conversion, Exactness, Forecast
from adapterhub.documents import Source as SourceDocument
from adapterhub.documents import Target as TargetDocument
from adapterhub.errors import UsageError
from adapterhub.files import File, Package, safetensors
from adapterhub.metadata import HASHED
from adapterhub.operations.compare import Gap
from adapterhub.operations.forecast import Load, forecast
from adapterhub.operations.ledger import summary
from adapterhub.operations.proof import Proof
from adapterhub.operations.recipe import drafted, written_into
from adapterhub.operations.source import Source, warnings_of
from adapterhub.operations.wish import Wish
from adapterhub.operations.work import NO_LOSS, SAME_IDS, Made
from adapterhub.tensors import DTYPE_BITS, LazyTensor

_BUFFERS = 16 << 20
"""Bytes of memory that writing takes."""
_ROUNDED = 0.5
"""The largest relative error that rounding is believed to leave."""
_SAME_NUMBERS = {"copy", "rename", "reshape", "split", "join", "metadata"}


def deliver(
    made: Made,
    target: Path,
    force: bool,
    opened: Source,
    proof: Proof,
    inputs: Iterable[Path | None] = (),
    *,
    digests: bool = True,
) -> str | None:
    """Writes the package, proves it and only then puts it in place; gives its sha256, None for a folder or without `digests`. Nothing that is read
    is overwritten: neither the source nor the files and folders `inputs`.
    """
    package = made.encoded.package
    with _folder_for(target), written_into(package) as told:
        found = files.write(
            told,
            target,
            force=force,
            hashed=HASHED,
            sources=[*opened.package.paths.values(), *_files(inputs)],
            prove=proof,
            reread=digests and proof.measured,
            digest=digests and package.container in files.SINGLE,
            threads=files.THREADS if made.adapter.kind is Kind.CHECKPOINT else 1,
            again=proof.verify,
        )
    return next(iter(found.values())) if package.container in files.SINGLE else None


def _files(inputs: Iterable[Path | None]) -> Iterator[Path]:
    """Every file, and every one in a folder."""
    for path in inputs:
        if path is not None:
            yield from (path.rglob("*") if path.is_dir() else (path,))


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


def digest_of(opened: Source) -> str | None:
    """The sha256 of a source that is one file."""
    paths = opened.package.paths
    return files.cached_sha256(next(iter(paths.values()))) if opened.package.container in files.SINGLE else None


@dataclass(frozen=True)
class Report:
    """What there is to tell, whether it was written or not."""

    wish: Wish
    place: Path
    layout: str
    opened: Source
    made: Made
    started: float
    proving: float = 0.0
    """Seconds of processor that the proof would take."""
    digests: bool = True
    """Whether the source and the target are hashed."""

    def document(
        self,
        hashed: Future[str | None] | None = None,
        digest: str | None = None,
        gap: Gap | None = None,
        *,
        dry_run: bool = False,
    ) -> Conversion:
        made = self.made
        odd = [problem.model_copy(update={"mend": made.mended.get(problem.code, problem.mend)})
               for problem in self.opened.problems]  # fmt: skip
        size = size_of(drafted(made.encoded.package))
        return Conversion(
            source=SourceDocument(path=str(self.wish.source), sha256=hashed.result() if hashed else None),
            target=TargetDocument(path=str(self.place), sha256=digest, layout=self.layout),
            exactness=_exactness(made, gap),
            max_error=max(gap.relative, made.error) if gap is not None else None,
            modules=len(made.adapter.modules()),
            entries=made.entries,
            summary=summary(made.entries),
            problems=[*warnings_of(self.opened.package), *odd, *made.problems, *made.told()],
            size=size,
            forecast=self._forecast(size) if dry_run else None,
            dry_run=dry_run,
            seconds=round(time.perf_counter() - self.started, 3),
        )

    def _forecast(self, size: int) -> Forecast:
        """All that comes first has been done; what is left is to write, to prove and to hash."""
        packages = (self.opened.package, self.made.encoded.package) if self.digests else ()
        hashed = sum(size_of(package) for package in packages if package.container in files.SINGLE)
        alone = time.perf_counter() - self.started
        cached = self.made.adapter.kind is not Kind.CHECKPOINT or hashed > 0 or self.wish.whole.verify
        load = Load(alone, size, spread=self.proving, threads=4, memory=_BUFFERS if cached else 0,
                    hashed=hashed, cached=cached)  # fmt: skip
        return forecast(load, self.place)


def size_of(package: Package) -> int:
    """The bytes of all tensor files, as safetensors has them."""
    return sum(len(file.head or safetensors.render_header(_in_order(file), file.metadata))
               + sum(tensor.nbytes for tensor in file.tensors.values()) for file in package.files.values())  # fmt: skip


def _in_order(file: File) -> Iterable[tuple[str, LazyTensor]]:
    """The tensors as safetensors has them, if it can hold them all."""
    held = all(tensor.dtype in DTYPE_BITS for tensor in file.tensors.values())
    return safetensors.in_order(file.tensors) if held and not file.in_given_order else file.tensors.items()


def of_inputs(done: Conversion, command: Command, paths: Sequence[Path], digests: Sequence[str | None]) -> Conversion:
    """What `command` did, which read all of `paths`."""
    read = [SourceDocument(path=str(path), sha256=digest) for path, digest in zip(paths, digests, strict=True)]
    return done.model_copy(update={"command": command, "source": read[0], "inputs": read if len(read) > 1 else []})


def _exactness(made: Made, gap: Gap | None) -> Exactness:
    """By what was done and, where it was measured, by what came of it."""
    actions = {entry.action for entry in made.entries if entry.reason not in NO_LOSS}
    if "drop" in actions:
        return "partial"
    differs = gap is not None and gap.max_abs > 0
    if (actions <= _SAME_NUMBERS and not differs) or (gap is not None and gap.max_abs == 0.0 and not made.error):
        return "bit-exact"
    rounded = any(entry.action == "cast" and entry.reason != SAME_IDS for entry in made.entries)
    measured = gap is not None and gap.relative > _ROUNDED
    return "approximate" if made.approximate or rounded or measured else "exact"
