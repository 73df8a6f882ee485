"""LoRAs changed, written in any layout, and the file measured against what it should do: what the tools have in common.

One straight line: open → change (`scale.py`, `combine.py`, `resize.py`, `extract.py`) → the steps of `convert` → write → open
again and compare.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from adapterhub import files
from adapterhub.adapter import Adapter, Kind, Module, Role
from adapterhub.algorithms import extent, rank_of
from adapterhub.documents import Command, Conversion, Problem
from adapterhub.errors import LossyConversion
from adapterhub.operations.base import Base
from adapterhub.operations.delivery import Report, deliver, digest_of, of_inputs
from adapterhub.operations.forecast import sampled
from adapterhub.operations.ledger import Ledger
from adapterhub.operations.lora.effect import apart, effect
from adapterhub.operations.lora.joining import join
from adapterhub.operations.lora.make import into_layout, loses_alpha
from adapterhub.operations.lora.measure import Measure, Wanted
from adapterhub.operations.lora.steps import Step
from adapterhub.operations.lora.threads import one_thread_in_each
from adapterhub.operations.problems import warning
from adapterhub.operations.proof import costs
from adapterhub.operations.source import Source, open_adapter
from adapterhub.operations.wish import USUAL, Wish, usual
from adapterhub.operations.work import Cut, Made, Request
from adapterhub.tensors import item


@dataclass(frozen=True)
class Output:
    """Where the result goes, and how; `architecture` is what the sources are for, where their keys leave that open, and `variant`
    that of folders that have their weights in several.
    """

    target: Path | str
    to: str | None = None
    for_tool: str | None = None
    dtype: str | None = None
    architecture: str | None = None
    dry_run: bool = False
    force: bool = False
    variant: str | None = None


@dataclass(frozen=True)
class Changed:
    """The result, what each of its modules should do, and those that were approximated.

    `tolerance` is the error that none of them may exceed, if there is such.
    """

    adapter: Adapter
    wanted: Wanted
    cuts: Mapping[Module, Cut] = field(default_factory=dict)
    problems: Sequence[Problem] = ()
    tolerance: float | None = None
    approximate: bool = False


_ANOTHER_LAYOUT = "Give --to another layout; adapterhub convert has more ways from there."

Change = Callable[[Adapter, Ledger, Request], Changed]
"""What is done to the adapter beside converting it; of several, to that which they are joined in."""


def rework(
    command: Command,
    paths: Sequence[Path],
    output: Output,
    change: Change,
    *,
    kind: Kind = Kind.LORA,
    joined: bool = False,
) -> Conversion:
    """Writes what `change` makes of the files of `kind` at `paths`, `joined` as `join` does or a single one as it is."""
    started = time.perf_counter()
    named = output.to or output.for_tool
    wish = Wish(source=paths[0], target=str(output.target), to=output.to if named else USUAL, for_tool=output.for_tool,
                dtype=output.dtype, force=output.force)  # fmt: skip
    for path in paths:
        replace(wish, source=path).check()
    with ExitStack() as stack:
        opened = _opened(paths, output, kind, stack)
        own = opened[0].layout
        wish = wish if named else replace(wish, to=usual(own, Kind.LORA, output.target))
        _, request = wish.met(Kind.LORA, own)
        source = join(opened, output.target) if joined else opened[0]
        ledger, base = Ledger(source.reading.places), Base(source.adapter.architecture, {})
        changed = change(source.adapter, ledger, request)
        without_alpha = not joined and loses_alpha(own)  # type: ignore[arg-type] # the kind says so
        made = _made(changed, request, Step(ledger, base), without_alpha=without_alpha, title=Path(output.target))
        place = wish.place(made.encoded.package)
        report = Report(wish, place, request.layout.name, source, made, started)
        if output.dry_run:
            report = replace(report, proving=_proving(changed, made, base))
            return _told(report.document(dry_run=True), command, paths, [None] * len(paths), changed)
        proof = Measure(source=source, made=made, base=base, measured=True, wanted=changed.wanted)
        digest = deliver(made, place, output.force, source, proof)
        done = report.document(None, digest, proof.gap)
        return _told(done, command, paths, list(map(digest_of, opened)), changed, proof)


def _opened(paths: Sequence[Path], output: Output, kind: Kind, stack: ExitStack) -> list[Source]:
    """The files, all for one architecture where there is one that each of them fits."""
    strict = not files.has_variant(output.variant, *paths)

    def open_as(path: Path, architecture: str | None) -> Source:
        return stack.enter_context(open_adapter(path, architecture=architecture, kinds=(kind,), variant=output.variant,
                                                strict=strict))  # fmt: skip

    opened = [open_as(path, output.architecture) for path in paths]
    names = [one.adapter.architecture for one in opened]
    shared = next(
        (name for name in names if all(name in (one.adapter.architecture, *one.identity.also) for one in opened)), None
    )
    return [
        one if shared in (None, name) else open_as(path, shared)
        for path, name, one in zip(paths, names, opened, strict=True)
    ]


def _proving(changed: Changed, made: Made, base: Base) -> float:
    """Seconds of processor that the proof takes."""
    modules = made.adapter.modules()

    def compare(module: Module) -> None:
        wanted, found = changed.wanted(module).weight, effect(module, modules[module], base).weight
        if wanted is not None and found is not None and wanted.numel() == found.numel():
            apart(wanted, found)

    with one_thread_in_each():
        return sampled(list(modules), compare, lambda module: math.prod(size or 1 for size in extent(modules[module])))


def _made(changed: Changed, request: Request, step: Step, *, without_alpha: bool, title: Path) -> Made:
    """The steps of a conversion, on what was made."""
    told = replace(request, source=title, algorithm=None)
    try:
        made = into_layout(step, changed.adapter, told, without_alpha=without_alpha)
    except LossyConversion as fault:  # which advises what `convert` alone has
        raise LossyConversion(fault.message, fault.losses, mend=_ANOTHER_LAYOUT) from None
    approximate = made.approximate or changed.approximate or bool(changed.cuts)
    return replace(made, approximate=approximate, problems=[*changed.problems, *made.problems])


def _told(
    done: Conversion,
    command: Command,
    paths: Sequence[Path],
    digests: Sequence[str | None],
    changed: Changed,
    proof: Measure | None = None,
) -> Conversion:
    """The document of a tool: what was read, and what every approximation costs."""
    found, overall = costs(changed.cuts, proof)
    missed = [warning("tolerance-missed", told.module, f"{told.error:.3g}: rounding to this dtype leaves more than was allowed",
                      "Give --dtype fp32.") for told in found if told.error > (changed.tolerance or math.inf)]  # fmt: skip
    told = {
        "problems": [*done.problems, *missed, *_vanished(done, proof)],
        "approximations": found,
        "relative_error": overall,
    }
    return of_inputs(done.model_copy(update=told), command, paths, digests)


def _vanished(done: Conversion, proof: Measure | None) -> Iterator[Problem]:
    """What is told of modules that became zero, where nothing else has told so."""
    if proof and proof.vanished and all(problem.code != "underflow" for problem in done.problems):
        yield warning("underflow", ".".join(min(proof.vanished)),
                      f"{len(proof.vanished)} modules became zero: their numbers are too small for their dtype",
                      "Give --dtype fp32 or bf16.")  # fmt: skip


def told_anew(adapter: Adapter) -> Adapter:
    """The adapter with Kohya's metadata true of its ranks and alphas, "Dynamic" where they differ (networks/resize_lora.py)."""
    fields = {name: text for name, text in adapter.metadata.items() if name != "ss_network_args"}
    ranks = {str(rank) for roles in adapter.modules().values() if (rank := rank_of(roles)) is not None}
    alphas = {f"{item(roles[Role.ALPHA]):g}" for roles in adapter.modules().values() if Role.ALPHA in roles}
    for name, found in (("ss_network_dim", ranks), ("ss_network_alpha", alphas)):
        fields[name] = found.pop() if len(found) == 1 else "Dynamic"
    return adapter.with_metadata(fields)
