"""A LoRA in another layout, step by step."""

from __future__ import annotations

from pathlib import Path

from adapterhub.adapter import Adapter, Module
from adapterhub.documents import LedgerEntry
from adapterhub.errors import LossyConversion
from adapterhub.layouts.base import Layout
from adapterhub.layouts.lora.placing import AlphaPlace, LoraLayout
from adapterhub.operations.base import Base
from adapterhub.operations.casting import cast
from adapterhub.operations.ledger import Ledger
from adapterhub.operations.lora import alphas, steps
from adapterhub.operations.lora.conform import conform
from adapterhub.operations.lora.fold import sunken
from adapterhub.operations.source import Source
from adapterhub.operations.titles import retitled
from adapterhub.operations.work import Cut, Made, Request


def make(opened: Source, request: Request, base: Base) -> Made:
    """The LoRA in another layout."""
    step = steps.Step(Ledger(opened.reading.places), base)
    assert opened.identity.fit is not None
    made = into_layout(step, opened.adapter, request, without_alpha=loses_alpha(opened.identity.fit.layout))
    left_out = [LedgerEntry(source=[place], target=[], action="drop", reason=why) for place, why in opened.dropped]
    made.entries.extend(left_out)
    return made


def into_layout(step: steps.Step, source: Adapter, request: Request, *, without_alpha: bool) -> Made:
    """Every step in order, each telling the ledger. `source` comes `without_alpha` where its layout has no place for it."""
    layout: LoraLayout = request.layout  # type: ignore[assignment] # the kind says so
    adapter = conform(source, step.ledger)
    lost, cuts = 0, dict[Module, Cut]()
    if request.algorithm:
        adapter, cuts = steps.as_algorithm(step, adapter, request.algorithm, request.rank, request.dtype)
    adapter = steps.translate(step, adapter, layout)
    note = alphas.remember(adapter, folded=layout.alpha is AlphaPlace.FOLDED) if loses_alpha(layout) else None
    if layout.alpha is AlphaPlace.FOLDED:
        adapter, lost = steps.fold(step, adapter)
    elif layout.alpha is AlphaPlace.TENSOR and without_alpha:
        adapter = alphas.complete(adapter)
    adapter = steps.without_homeless(step, adapter, layout, request.allow_loss)
    if not adapter.tensors:
        raise nothing_left(request.source, layout)
    if request.dtype:
        alphas.ensure_held(adapter, request.dtype)
        adapter = cast(adapter, request.dtype, step.ledger)
    fields = {} if note is None else {alphas.FIELD: note}
    adapter = retitled(adapter.with_metadata({**adapter.metadata, **fields}), request.source.stem)
    encoded = layout.encode(adapter)
    entries = step.ledger.entries(encoded)
    approximate = bool(cuts) or lost > 0 or bool(request.algorithm and request.dtype)
    cuts = {module: cut for module, cut in cuts.items() if module in adapter.modules()}
    return Made(source, adapter, encoded, entries, approximate, problems=list(sunken(lost)), cuts=cuts)


def nothing_left(source: Path, layout: Layout) -> LossyConversion:
    """What is said where --allow-loss would lose everything."""
    return LossyConversion(f"nothing of {source} would remain in {layout.name}", [], mend="Use another layout.")


def loses_alpha(layout: LoraLayout) -> bool:
    """Whether a layout keeps alpha elsewhere than in a tensor, or nowhere."""
    return layout.alpha is not AlphaPlace.TENSOR
