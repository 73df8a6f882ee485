"""`convert`: an adapter into another layout, every tensor accounted for, and the written file measured against the source.

One straight line: open → conform → (another algorithm) → translate → alpha → refuse what has no place → cast → encode →
write → open again and compare. A conversion that only renames moves bytes and imports no torch.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import adapterhub.architectures as architectures
import adapterhub.layouts as layouts
from adapterhub import files, metadata
from adapterhub.adapter import Adapter, Key, Role
from adapterhub.algorithms import algorithm_of, scale_of
from adapterhub.documents import Conversion, Exactness, LedgerEntry, Problem
from adapterhub.documents import Source as SourceDocument
from adapterhub.documents import Target as TargetDocument
from adapterhub.errors import AdapterhubError, LossyConversion, OutputExists, UnknownName, UsageError
from adapterhub.layouts.base import AlphaPlace, Encoded, Layout
from adapterhub.operations import alphas
from adapterhub.operations.base import Base, base_of
from adapterhub.operations.compare import Gap, gap
from adapterhub.operations.conform import conform
from adapterhub.operations.ledger import Ledger, summary
from adapterhub.operations.source import Source, open_adapter
from adapterhub.operations.steps import Step, as_algorithm, cast, fold, translate, without_homeless
from adapterhub.tensors import FLOATS

DTYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
ALGORITHMS = ("lora", "full")
_SAME_STORAGE = {"copy", "rename", "reshape", "metadata"}


@dataclass(frozen=True)
class Request:
    """What was asked for; names are checked."""

    source: Path
    target: Path
    layout: Layout
    algorithm: str | None
    rank: int | None
    dtype: str | None
    base: Path | None
    architecture: str | None
    allow_loss: bool
    force: bool


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
    nothing is written, without `check` the written file is not measured. Raises what `adapterhub.errors` lists.
    """
    started = time.perf_counter()
    request = _request(source, target, to, for_tool, as_algorithm, rank, dtype, base, architecture, allow_loss, force)
    with open_adapter(request.source, architecture=architecture, allow_loss=allow_loss) as opened:
        with base_of(request.base, opened.adapter.architecture) as weights:
            made = _made(opened, request, weights)
            if dry_run:
                return _report(request, opened, made, None, None, None, started)
            with ThreadPoolExecutor(1) as beside:
                hashed = beside.submit(_source_digest, opened)
                written = _written(request, opened, made)
                try:
                    worst = _proof(request, opened, made, weights) if check else None
                except BaseException:
                    _take_back(written)
                    raise
                return _report(request, opened, made, worst, written, hashed.result(), started)


@dataclass(frozen=True)
class _Made:
    """The adapter in its new form, what it will be written as, and the history of every tensor."""

    adapter: Adapter
    encoded: Encoded
    ledger: Ledger
    entries: list[LedgerEntry]
    approximate: bool
    error: float


@dataclass(frozen=True)
class _Written:
    path: Path
    digest: str | None
    created: Path | None


def _request(
    source: Path | str, target: Path | str, to: str | None, for_tool: str | None, algorithm: str | None,
    rank: int | None, dtype: str | None, base: Path | str | None, architecture: str | None, allow_loss: bool, force: bool,
) -> Request:  # fmt: skip
    if (to is None) == (for_tool is None):
        raise UsageError("say what to convert to: either --to LAYOUT or --for TOOL")
    layout = layouts.get(to) if to is not None else layouts.for_tool(for_tool or "")
    if not layout.writes:
        raise UsageError(f"{layout.name} is only read", mend="adapterhub layouts shows what is written.")
    if dtype is not None and dtype not in DTYPES:
        raise UnknownName("dtype", dtype, tuple(DTYPES))
    if algorithm is not None and algorithm not in ALGORITHMS:
        raise UnknownName("algorithm", algorithm, ALGORITHMS)
    if rank is not None and (algorithm != "lora" or rank < 1):
        raise UsageError("--rank goes with --as lora and is at least 1")
    if architecture is not None:
        architectures.get(architecture)
    place = _target(Path(target), str(target), layout)
    if place.exists() and place.samefile(source) if Path(source).exists() else False:
        raise UsageError(f"{place} is the source itself", mend="Give another output path.")
    if place.exists() and not force and not (layout.directory and place.is_dir() and not any(place.iterdir())):
        raise OutputExists(place)
    return Request(Path(source), place, layout, algorithm, rank, DTYPES[dtype] if dtype else None,
                   Path(base) if base is not None else None, architecture, allow_loss, force)  # fmt: skip


def _target(path: Path, text: str, layout: Layout) -> Path:
    """The file or folder that is written: a folder named for a file layout takes its usual name inside."""
    if layout.directory:
        if path.suffix in (".safetensors", ".pt", ".bin", ".ckpt"):
            raise UsageError(f"{layout.name} is a folder, and {path} names a file", mend="Give -o a folder.")
        return path
    return layout.default_name(path) if path.is_dir() or text.endswith(("/", "\\")) else path


def _made(opened: Source, request: Request, weights: Base) -> _Made:
    """Every step in order, each telling the ledger."""
    ledger = Ledger(opened.reading.places)
    step = Step(opened.adapter, ledger, weights)
    source, layout = opened.fit.layout, request.layout
    adapter = conform(step.adapter, ledger)
    approximate, error = False, 0.0
    if request.algorithm:
        adapter, error = as_algorithm(step.on(adapter), request.algorithm, request.rank, request.dtype)
        approximate = request.rank is not None and error > 0
    adapter = translate(step.on(adapter), layout)
    note = None if layout.alpha is AlphaPlace.TENSOR else alphas.remember(adapter, folded=layout.alpha is AlphaPlace.FOLDED)
    if layout.alpha is AlphaPlace.FOLDED:
        adapter = fold(step.on(adapter))
    elif layout.alpha is AlphaPlace.TENSOR and source.alpha is not AlphaPlace.TENSOR:
        adapter = alphas.complete(adapter)
    adapter = without_homeless(step.on(adapter), layout, request.allow_loss)
    if request.dtype:
        adapter = cast(step.on(adapter), request.dtype)
    adapter = _with_metadata(adapter, note, request)
    encoded = layout.encode(adapter)
    stored = {place for place in encoded.places.values() if place is not None and _is_tensor(place, encoded)}
    entries = ledger.entries(encoded.places, stored)
    entries += [LedgerEntry(source=[place], target=[], action="drop", reason=why) for place, why in opened.dropped]
    return _Made(adapter, encoded, ledger, entries, approximate, error)


def _is_tensor(place: str, encoded: Encoded) -> bool:
    file, colon, name = place.partition(":")
    package = encoded.package
    if colon and file in package.files:
        return name in package.files[file].tensors
    return len(package.files) == 1 and place in package.only.tensors


def _with_metadata(adapter: Adapter, note: str | None, request: Request) -> Adapter:
    fields = dict(adapter.metadata)
    if note is not None:
        fields[alphas.FIELD] = note
    modelspec = architectures.get(adapter.architecture).modelspec
    return Adapter(adapter.kind, adapter.architecture, adapter.tensors,
                   metadata.renewed(fields, modelspec, request.source.stem))  # fmt: skip


def _source_digest(opened: Source) -> str | None:
    paths = opened.package.paths
    return files.sha256(next(iter(paths.values()))) if opened.package.container == files.SAFETENSORS else None


def _written(request: Request, opened: Source, made: _Made) -> _Written:
    """Writes the package; a folder that had to be made for it goes again if that fails."""
    folder = request.target.parent
    created = None
    if not folder.exists() and not request.layout.directory:
        folder.mkdir()
        created = folder
    try:
        digests = files.write(
            made.encoded.package, request.target, force=request.force, hashed=metadata.HASHED,
            sources=list(opened.package.paths.values()),
        )  # fmt: skip
        opened.package.ensure_unchanged()
    except BaseException:
        if created is not None:
            created.rmdir()
        raise
    single = made.encoded.package.container == files.SAFETENSORS
    return _Written(request.target, next(iter(digests.values())) if single else None, created)


def _take_back(written: _Written) -> None:
    """Removes an output that failed its proof."""
    import shutil

    if written.path.is_dir():
        shutil.rmtree(written.path)
    else:
        written.path.unlink(missing_ok=True)
    if written.created is not None:
        written.created.rmdir()


def _proof(request: Request, opened: Source, made: _Made, weights: Base) -> Gap:
    """The worst gap between the source and the file as it lies on disk, decoded by nothing but its own names."""
    with open_adapter(request.target, architecture=made.adapter.architecture) as again:
        if again.fit.layout.alpha is AlphaPlace.TENSOR or again.fit.layout.name == request.layout.name:
            pass
        before, after = opened.adapter.modules(), again.adapter.modules()
        kept = {(key.component, key.module) for key in made.adapter.tensors}
        worst = Gap(0.0, 0.0)
        for module, tensors in before.items():
            if tuple(module) not in kept:
                continue
            if module not in after:
                raise AdapterhubError(f"{request.target}: {'.'.join(module)} is not in the file that was written")
            found = gap(module, tensors, after[module], weights)
            worst = Gap(max(worst.max_abs, found.max_abs), max(worst.relative, found.relative))
    return worst


def _report(
    request: Request, opened: Source, made: _Made, worst: Gap | None, written: _Written | None,
    source_digest: str | None, started: float,
) -> Conversion:  # fmt: skip
    problems = [Problem(severity="warning", code=found.code, where=found.where, message=found.message)
                for found in opened.package.problems]  # fmt: skip
    return Conversion(
        source=SourceDocument(path=str(request.source), sha256=source_digest),
        target=TargetDocument(path=str(request.target), sha256=written.digest if written else None,
                              layout=request.layout.name),  # fmt: skip
        exactness=_exactness(made, worst, request),
        max_error=worst.relative if worst is not None else None,
        modules=len(made.adapter.modules()),
        entries=made.entries,
        summary=summary(made.entries),
        problems=[*problems, *opened.problems],
        dry_run=written is None,
        seconds=round(time.perf_counter() - started, 3),
    )


def _exactness(made: _Made, worst: Gap | None, request: Request) -> Exactness:
    """By what was done and, where it was measured, by what came of it."""
    actions = {entry.action for entry in made.entries}
    if "drop" in actions:
        return "partial"
    if actions <= _SAME_STORAGE or (worst is not None and worst.max_abs == 0.0):
        return "bit-exact"
    if made.approximate or "cast" in actions:
        return "approximate"
    return "exact"
