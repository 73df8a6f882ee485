"""`convert`: an adapter into another layout, every tensor accounted for, and the written file measured against the source.

One straight line: open → steps (`steps.py`) → encode → write → open again and compare. A conversion that only renames
moves bytes and imports no torch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import adapterhub.architectures as architectures
import adapterhub.layouts as layouts
from adapterhub import files, metadata
from adapterhub.adapter import Adapter
from adapterhub.documents import Conversion, Exactness, LedgerEntry
from adapterhub.documents import Source as SourceDocument
from adapterhub.documents import Target as TargetDocument
from adapterhub.errors import LossyConversion, OutputExists, UnknownName, UsageError
from adapterhub.layouts.base import AlphaPlace, Encoded, Layout
from adapterhub.operations import alphas, steps
from adapterhub.operations.base import Base, base_of
from adapterhub.operations.compare import Gap
from adapterhub.operations.conform import conform
from adapterhub.operations.ledger import Ledger, summary
from adapterhub.operations.proof import Proof
from adapterhub.operations.source import Source, open_adapter, warnings_of

DTYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
ALGORITHMS = ("lora", "full")
_FILE_SUFFIXES = (".safetensors", ".pt", ".bin", ".ckpt")
_SAME_NUMBERS = {"copy", "rename", "reshape", "metadata"}


@dataclass(frozen=True)
class Request:
    """What was asked for. `target` is the file or folder itself, `dtype` safetensors' name."""

    source: Path
    target: Path
    layout: Layout
    algorithm: str | None
    rank: int | None
    dtype: str | None
    allow_loss: bool
    force: bool

    def check(self) -> None:
        """Raises UsageError for what cannot be meant."""
        if not self.layout.writes:
            raise UsageError(f"{self.layout.name} is only read", mend="adapterhub layouts shows what is written.")
        if self.algorithm is not None and self.algorithm not in ALGORITHMS:
            raise UnknownName("algorithm", self.algorithm, ALGORITHMS)
        if self.rank is not None and (self.algorithm != "lora" or self.rank < 1):
            raise UsageError("--rank goes with --as lora and is at least 1")
        if self.target.exists() and self.source.exists() and self.target.samefile(self.source):
            raise UsageError(f"{self.target} is the source itself", mend="Give another output path.")
        if self.target.exists() and not self.force and not self._is_empty_folder():
            raise OutputExists(self.target)

    def _is_empty_folder(self) -> bool:
        return self.layout.directory and self.target.is_dir() and not any(self.target.iterdir())


@dataclass(frozen=True)
class Made:
    """The adapter in its new form, what it is written as, and what became of every tensor."""

    adapter: Adapter
    encoded: Encoded
    entries: list[LedgerEntry]
    approximate: bool


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
    allow_loss: bool = False,
    dry_run: bool = False,
    force: bool = False,
    check: bool = True,
) -> Conversion:
    """Writes the adapter at `source` to `target` in the layout `to`, or in that which `for_tool` reads.

    `as_algorithm` ("lora", "full") changes what a module is made of, with `rank` for an approximation; `dtype` ("fp32",
    "fp16", "bf16") casts; `base` is the model that DoRA, IA3, OFT, BOFT and GLoRA are resolved against. With `dry_run`
    nothing is written; without `check` nothing is read twice: neither the error nor whole-file digests are known. Raises what `adapterhub.errors` lists.
    """
    started = time.perf_counter()
    layout = _layout(to, for_tool)
    place = _place(str(target), layout)
    request = Request(Path(source), place, layout, as_algorithm, rank, _dtype(dtype), allow_loss, force)
    request.check()
    with (
        open_adapter(request.source, architecture=architecture, allow_loss=allow_loss) as opened,
        base_of(Path(base) if base is not None else None, opened.adapter.architecture) as weights,
    ):
        made = make(opened, request, weights)
        if dry_run:
            return _report(request, opened, made, started, dry_run=True)
        with ThreadPoolExecutor(1) as beside:
            hashed = beside.submit(_digest, opened) if check else None
            proof = Proof(opened, made.adapter, weights, measured=check)
            digest = _write(made, request, opened, proof)
            return _report(request, opened, made, started, hashed, digest, proof.gap)


def make(opened: Source, request: Request, weights: Base) -> Made:
    """Every step in order, each telling the ledger."""
    layout = request.layout
    step = steps.Step(Ledger(opened.reading.places), weights)
    adapter = conform(opened.adapter, step.ledger)
    error = 0.0
    if request.algorithm:
        adapter, error = steps.as_algorithm(step, adapter, request.algorithm, request.rank, request.dtype)
    adapter = steps.translate(step, adapter, layout)
    note = alphas.remember(adapter, folded=layout.alpha is AlphaPlace.FOLDED) if _loses_alpha(layout) else None
    if layout.alpha is AlphaPlace.FOLDED:
        adapter = steps.fold(step, adapter)
    elif layout.alpha is AlphaPlace.TENSOR and _loses_alpha(opened.fit.layout):
        adapter = alphas.complete(adapter)
    adapter = steps.without_homeless(step, adapter, layout, request.allow_loss)
    if not adapter.tensors:
        raise LossyConversion(
            f"nothing of {request.source} would remain in {layout.name}", [], mend="Use another layout."
        )
    if request.dtype:
        adapter = steps.cast(step, adapter, request.dtype)
    adapter = _with_metadata(adapter, note, request.source.stem)
    encoded = layout.encode(adapter)
    entries = step.ledger.entries(encoded)
    entries += [LedgerEntry(source=[place], target=[], action="drop", reason=why) for place, why in opened.dropped]
    return Made(adapter, encoded, entries, approximate=error > 0 or bool(request.algorithm and request.dtype))


def _write(made: Made, request: Request, opened: Source, proof: Proof) -> str | None:
    """Writes the package, proves it and only then puts it in place; gives its sha256, None for a folder."""
    package, target = made.encoded.package, request.target
    with _folder_for(target):
        digests = files.write(
            package,
            target,
            force=request.force,
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


def _layout(to: str | None, for_tool: str | None) -> Layout:
    if (to is None) == (for_tool is None):
        raise UsageError("say what to convert to: either --to LAYOUT or --for TOOL")
    return layouts.get(to) if to is not None else layouts.for_tool(str(for_tool))


def _dtype(name: str | None) -> str | None:
    if name is not None and name not in DTYPES:
        raise UnknownName("dtype", name, tuple(DTYPES))
    return None if name is None else DTYPES[name]


def _place(target: str, layout: Layout) -> Path:
    """The file or folder that is written: where a folder is named for a file, the file's usual name inside."""
    path = Path(target)
    if layout.directory:
        if path.suffix in _FILE_SUFFIXES:
            raise UsageError(f"{layout.name} is a folder, and {path} names a file", mend="Give -o a folder.")
        return path
    return layout.default_name(path) if path.is_dir() or target.endswith("/") else path


def _loses_alpha(layout: Layout) -> bool:
    return layout.alpha is not AlphaPlace.TENSOR


def _with_metadata(adapter: Adapter, note: str | None, title: str) -> Adapter:
    fields = dict(adapter.metadata)
    if note is not None:
        fields[alphas.FIELD] = note
    model = architectures.get(adapter.architecture)
    return adapter.with_metadata(metadata.renewed(fields, model, title))


def _digest(opened: Source) -> str | None:
    """The sha256 of a source that is one file."""
    paths = opened.package.paths
    return files.sha256(next(iter(paths.values()))) if opened.package.container in files.SINGLE else None


def _report(
    request: Request,
    opened: Source,
    made: Made,
    started: float,
    hashed: Future[str | None] | None = None,
    digest: str | None = None,
    gap: Gap | None = None,
    *,
    dry_run: bool = False,
) -> Conversion:
    return Conversion(
        source=SourceDocument(path=str(request.source), sha256=hashed.result() if hashed else None),
        target=TargetDocument(path=str(request.target), sha256=digest, layout=request.layout.name),
        exactness=_exactness(made, gap),
        max_error=gap.relative if gap is not None else None,
        modules=len(made.adapter.modules()),
        entries=made.entries,
        summary=summary(made.entries),
        problems=[*warnings_of(opened.package), *opened.problems],
        dry_run=dry_run,
        seconds=round(time.perf_counter() - started, 3),
    )


def _exactness(made: Made, gap: Gap | None) -> Exactness:
    """By what was done and, where it was measured, by what came of it."""
    actions = {entry.action for entry in made.entries}
    if "drop" in actions:
        return "partial"
    if actions <= _SAME_NUMBERS or (gap is not None and gap.max_abs == 0.0):
        return "bit-exact"
    return "approximate" if made.approximate or "cast" in actions else "exact"
