"""What a merge tells: the ledger of the base's tensors and the adapters', and what is worth knowing of the result."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from adapterhub import files
from adapterhub.adapter import Key, Kind
from adapterhub.documents import Action, Conversion, Exactness, LedgerEntry, Problem, Target
from adapterhub.documents import Source as SourceDocument
from adapterhub.files import Package
from adapterhub.operations.checkpoint.others import carried
from adapterhub.operations.delivery import size_of
from adapterhub.operations.joining import problems_of
from adapterhub.operations.ledger import summary
from adapterhub.operations.merge.output import keys_by_place, place_of
from adapterhub.operations.merge.subtracted import subtracted
from adapterhub.operations.merge.terms import Term
from adapterhub.operations.problems import warning
from adapterhub.operations.source import Source, warnings_of
from adapterhub.operations.work import NO_LOSS
from adapterhub.tensors import FLOATS

if TYPE_CHECKING:
    from adapterhub.operations.merge.run import Run


def document(
    run: Run,
    package: Package,
    place: Path,
    *,
    base: str | None = None,
    digest: str | None = None,
    dry_run: bool = False,
) -> Conversion:
    """The document of a merge that was written, or would be."""
    entries = [*_of_base(run), *_of_adapters(run), *_of_others(run)]
    source = SourceDocument(path=str(run.order.base), sha256=base)
    read = [source, *(SourceDocument(path=str(one.part.path), sha256=one.digest) for one in run.adapters)]
    return Conversion(
        command=run.command,
        source=source,
        inputs=read,
        target=Target(path=str(place), sha256=digest, layout=run.opened.layout.name),
        exactness=_exactness(run),
        max_error=None,
        modules=len({key[:2] for key in run.plan.terms}),
        entries=entries,
        summary=summary(entries),
        problems=list(_problems(run)),
        size=size_of(package),
        forecast=run.forecast(package, place) if dry_run else None,
        undo=None if run.undo is None else SourceDocument(path=str(run.undo), sha256=_written(run.undo, dry_run)),
        dry_run=dry_run,
        seconds=round(time.perf_counter() - run.started, 3),
    )


def _written(path: Path, dry_run: bool) -> str | None:
    return None if dry_run else files.sha256(path)


def _of_base(run: Run) -> Iterator[LedgerEntry]:
    terms, tensors = run.plan.terms, run.opened.adapter.tensors
    for place, keys in keys_by_place(run.opened).items():
        counted = max(len(terms.get(key, ())) for key in keys)
        cast = run.dtype is not None and any(_is_cast(run, key, tensors[key].dtype) for key in keys)
        reason = f"{counted} change{'s' if counted > 1 else ''} added" if counted else None
        target = place_of(run.opened, place)
        kept: Action = "copy" if target == place else "rename"
        yield LedgerEntry(source=[f"{run.order.base}:{place}"], target=[target],
                          action="compute" if counted else "cast" if cast else kept, reason=reason)  # fmt: skip


def _is_cast(run: Run, key: Key, dtype: str) -> bool:
    return key.component != "aside" and dtype in FLOATS and dtype != run.dtype


def _of_adapters(run: Run) -> Iterator[LedgerEntry]:
    places = run.opened.reading.places
    for source, keys, reason in run.plan.targets:
        there = list(dict.fromkeys(place_of(run.opened, places[key]) for key in keys))
        yield LedgerEntry(source=source, target=there, action="compute", reason=reason)
    yield from run.plan.drops
    for one in run.adapters:
        for place, why in one.source.dropped:
            yield LedgerEntry(source=[one.place(place)], target=[], action="drop", reason=why)
    for place, why in run.opened.dropped:
        yield LedgerEntry(source=[f"{run.order.base}:{place}"], target=[], action="drop", reason=why)


def _of_others(run: Run) -> Iterator[LedgerEntry]:
    for entry in carried(run.beside):
        yield entry.model_copy(update={"source": [f"{run.order.base}:{place}" for place in entry.source]})


def _exactness(run: Run) -> Exactness:
    infinite = sum(run.overflows.values()) + run.tally.overflows
    if run.plan.losses or any(_loses(one.source) for one in run.adapters) or infinite:
        return "partial"
    return "approximate" if run.dtype is not None or run.order.rounding != "nearest" else "exact"


def _loses(source: Source) -> bool:
    return any(why not in NO_LOSS for _, why in source.dropped)


def _problems(run: Run) -> Iterator[Problem]:
    for source in (run.opened, *(one.source for one in run.adapters)):
        yield from warnings_of(source.package)
        yield from problems_of(source)
    ordered = {key: terms for key, terms in run.plan.terms.items() if _have_order(terms, len(run.adapters))}
    if ordered:
        key = next(iter(ordered))
        names = ", ".join(sorted({term.title for terms in ordered.values() for term in terms if not term.commutes}))
        yield warning("order-matters", ".".join(key[:2]),
                      f"{names} in {len({key[:2] for key in ordered})} modules: what they do depends on the weight, and adapters "
                      f"work in the order given, each on what the ones before it made")  # fmt: skip
    if run.command == "unmerge":
        yield from subtracted(run.order, [one.digest for one in run.adapters])
    for pattern in _idle(run):
        yield warning("pattern-fits-nothing", pattern, "fits no module of the adapters, and selects or weighs nothing",
                      "Patterns are globs over component.module, as in 'unet.*attn2*'.")  # fmt: skip
    if lost := sum(run.overflows.values()):
        yield warning(
            "overflow", "", f"{lost} numbers became infinite", "Merge at a lower strength, or with --dtype bf16."
        )
    yield from run.tally.problems()


def _have_order(terms: Sequence[Term], adapters: int) -> bool:
    """Whether another order of adapters would make another tensor; what is folded was computed from other tensors, too."""
    several = len(terms) > 1 or (adapters > 1 and any(term.folded for term in terms))
    return several and not all(term.commutes for term in terms)


def _idle(run: Run) -> Iterator[str]:
    """The patterns of the order that fit nothing."""
    order = run.order
    patterns = [*order.include, *order.exclude, *(order.factors or ())]
    adapters = [one.source.adapter for one in run.adapters]
    if any(adapter.kind is Kind.HYPERNETWORK for adapter in adapters):  # which is for whatever the base has
        adapters.append(run.opened.adapter)
    names = {".".join(module) for adapter in adapters for module in adapter.modules()} if patterns else set()
    for pattern in dict.fromkeys(patterns):
        if not any(fnmatchcase(name, pattern) for name in names):
            yield pattern
