"""A hypernetwork as a LoRA file for one base: folded or, if that was allowed, fitted; then like any other LoRA."""

from __future__ import annotations

from dataclasses import replace

from adapterhub.adapter import Key
from adapterhub.documents import LedgerEntry, Problem
from adapterhub.errors import LossyConversion
from adapterhub.layouts.hypernetwork.structure import STRUCTURE, Net, is_linear, net_of, nets, structure_of
from adapterhub.metadata import HASHED
from adapterhub.operations.base import Base
from adapterhub.operations.hypernetwork.fold import Folded, fold, fold_affines, lora_of
from adapterhub.operations.ledger import Ledger
from adapterhub.operations.lora.make import into_layout, nothing_left
from adapterhub.operations.lora.steps import Step
from adapterhub.operations.source import Source
from adapterhub.operations.work import Made, Request


def make_lora(opened: Source, request: Request, base: Base) -> Made:
    """Every step in order, each telling the ledger. Changes are computed in float64 and rounded once, to float32 unless a
    dtype was asked for; the proof measures that rounding.
    """
    source, ledger = opened.adapter, Ledger(opened.reading.places)
    structure = structure_of(source)
    problems: list[Problem] = []
    error = 0.0
    if is_linear(structure) or not request.fit:
        folded = fold(source, base, dtype="F64")
    else:
        from adapterhub.operations.hypernetwork.fit import Fits, told

        fits = Fits(source, base)
        folded = fold_affines(nets(structure), fits.affine, base, "F64")
        if residuals := fits.residuals():
            error = max(residuals)
            problems.append(told(residuals))
    _require_effect(folded, base, request)
    _tell(folded, ledger, {net: [key for key in source.tensors if net_of(key) == net] for net in folded}, base)
    rounded = replace(request, dtype=request.dtype or "F32")
    kept = {field: text for field, text in source.metadata.items() if field not in (STRUCTURE, *HASHED)}
    made = into_layout(Step(ledger, base), lora_of(folded, base, kept), rounded, without_alpha=False)
    made.entries.extend(
        LedgerEntry(source=[place], target=[], action="drop", reason=why) for place, why in opened.dropped
    )
    approximate = made.approximate or bool(error) or rounded.dtype != "F32"
    return replace(made, error=max(made.error, error), approximate=approximate, problems=[*made.problems, *problems])


def _require_effect(folded: Folded, base: Base, request: Request) -> None:
    """Nets that meet no attention would be lost."""
    idle = [net for net, changes in folded.items() if not changes]
    if len(idle) == len(folded):
        raise nothing_left(request.source, request.layout)
    if idle and not request.allow_loss:
        losses = [(f"{net.width}.{net.half}", _no_attention(net, base)) for net in idle]
        raise LossyConversion(
            f"{len(idle)} of {len(folded)} nets would be lost: {losses[0][1]}", losses,
            mend="--allow-loss leaves them out and lists them.",
        )  # fmt: skip


def _no_attention(net: Net, base: Base) -> str:
    return f"no attention of {base.architecture} has contexts of {net.width}"


def _tell(folded: Folded, ledger: Ledger, keys: dict[Net, list[Key]], base: Base) -> None:
    for net, changes in folded.items():
        if changes:
            ledger.replace(
                keys[net], changes, "compute", f"folded into to_{net.half} of every attention of {net.width}"
            )
        else:
            ledger.replace(keys[net], [], "drop", _no_attention(net, base))
