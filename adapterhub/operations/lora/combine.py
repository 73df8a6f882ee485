"""Several LoRAs as one: Σ weight · ΔW, exactly by joining their factors, or the best approximation of a lower rank."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from adapterhub.adapter import Adapter, Key, Module, Role
from adapterhub.algorithms import algorithm_of, extent, label
from adapterhub.documents import Conversion, Problem
from adapterhub.errors import BrokenAdapter, UsageError
from adapterhub.metadata import utf8
from adapterhub.operations.base import Base
from adapterhub.operations.compare import same
from adapterhub.operations.ledger import Ledger
from adapterhub.operations.lora.effect import Effect
from adapterhub.operations.lora.fold import sunken
from adapterhub.operations.lora.joining import keys, label_of
from adapterhub.operations.lora.low_rank import bound
from adapterhub.operations.lora.naming import naming
from adapterhub.operations.lora.pairs import needs_base
from adapterhub.operations.lora.rework import Changed, Output, rework, told_anew
from adapterhub.operations.lora.scale import not_linear
from adapterhub.operations.lora.sums import Combined, Mixing, combined, mixing_of, trimming, wanted
from adapterhub.operations.lora.term import Term
from adapterhub.operations.lora.threads import each
from adapterhub.operations.problems import warning
from adapterhub.operations.recipe import recorded
from adapterhub.operations.work import Cut, Request
from adapterhub.tensors import LazyTensor

_BIASES = (Role.DIFF_B, Role.UP_BIAS, Role.B_NORM)


@recorded("combine", "adapters")
def combine(
    adapters: Sequence[Path | str | tuple[Path | str, float]],
    target: Path | str,
    *,
    rank: int | None = None,
    tolerance: float | None = None,
    method: str = "linear",
    density: float | None = None,
    seed: int = 0,
    to: str | None = None,
    for_tool: str | None = None,
    dtype: str | None = None,
    architecture: str | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> Conversion:
    """Writes one LoRA that does what several do, each a path or (path, weight), to `target`.

    "linear" is Σ weight · ΔW, whatever the ranks, alphas, algorithms and layouts: exact, with the ranks added up, or with `rank`
    or `tolerance` its best approximation, computed from the factors; "svd" insists on one of these. "ties" and "dare" merge
    ΔW itself, keeping a share `density` of the numbers of each LoRA (0.2, 0.1), and approximate what comes of that.
    Modules that one adapter alone has are scaled as they are. Full differences, norms and biases are added. Numbers that have
    to be computed have `dtype`, else F32 (F64 where that is among them); of an approximation the factors' own.

    Raises RefusedInput, naming all, where architectures or shapes differ, or several change a module and one of these is no
    sum (DoRA, OFT, IA3, GLoRA …).
    """
    pairs = [given if isinstance(given, tuple) else (given, 1.0) for given in adapters]
    weights = [float(weight) for _, weight in pairs]
    if not pairs or not all(map(math.isfinite, weights)):
        raise UsageError("combining takes one LoRA or more, and finite weights")
    mixing = mixing_of(method, bound(rank, tolerance), density, seed)
    paths = [Path(path) for path, _ in pairs]

    change = partial(_changed, paths=paths, weights=weights, mixing=mixing)
    output = Output(target, to, for_tool, dtype, architecture, dry_run, force)
    return rework("combine", paths, output, change, joined=True)


def _changed(
    adapter: Adapter, ledger: Ledger, request: Request, *, paths: Sequence[Path], weights: Sequence[float], mixing: Mixing
) -> Changed:  # fmt: skip
    """One adapter of those that were joined, each module told to the ledger."""
    terms = _terms(adapter, paths, weights)
    base = Base(adapter.architecture, {})
    _ensure_addable(terms, mixing)
    mixing = trimming(mixing, terms.values())
    tensors: dict[Key, LazyTensor] = {}
    cuts: dict[Module, Cut] = {}
    sunk = 0
    read = {
        module: sum(tensor.nbytes for term in found for tensor in term.tensors.values())
        for module, found in terms.items()
    }

    def made_of(module: Module) -> Combined:
        with naming(module):
            return combined(module, terms[module], mixing, request.dtype)

    every = each(made_of, read)
    for (module, found), made in zip(terms.items(), every, strict=True):
        if made.cut is not None:
            cuts[module] = made.cut
        sunk += made.sunk
        before = [key for term in found for key in keys(term.number, module, term.tensors)]
        ledger.replace(before, [Key(*module, role) for role in made.tensors], made.action, made.reason)
        tensors |= {Key(*module, role): tensor for role, tensor in made.tensors.items()}
    named = {**adapter.metadata, "modelspec.merged_from": utf8(", ".join(path.stem for path in paths))}
    result = told_anew(adapter.with_tensors(tensors).with_metadata(named))
    gone = {module for module, cut in cuts.items() if cut.cancelled}

    def of(module: Module) -> Effect:
        found = wanted(module, terms[module], mixing, base)
        return found._replace(weight=found.times(0).weight) if module in gone else found

    return Changed(result, of, cuts, [*_cancelled(gone), *sunken(sunk, "Give --dtype fp32 or bf16.")],
                   tolerance=mixing.within.tolerance if mixing.within else None, approximate=request.dtype is not None)  # fmt: skip


def _cancelled(modules: Collection[Module]) -> Iterator[Problem]:
    """What is told of sums that are nothing."""
    if modules:
        yield warning("cancelled", ".".join(min(modules)),
                      f"the changes of {len(modules)} modules cancel: their sum is zero within rounding, and zeros are stored",
                      "If that is not meant, change the weights: what one adds, another takes away.")  # fmt: skip


def _terms(adapter: Adapter, paths: Sequence[Path], weights: Sequence[float]) -> dict[Module, list[Term]]:
    """For each module what the inputs do to it, in their order."""
    found: dict[Module, list[Term]] = {}
    for labelled, tensors in adapter.modules().items():
        number, module = label_of(labelled)
        found.setdefault(module, []).append(Term(number, paths[number].name, weights[number], tensors))
    return found


def _ensure_addable(terms: Mapping[Module, Sequence[Term]], mixing: Mixing) -> None:
    """BrokenAdapter that names every module whose changes have no sum."""
    refused = [f"{'.'.join(module)}: {why}" for module, found in terms.items() for why in _faults(found, mixing)]
    if refused:
        raise BrokenAdapter(f"{len(refused)} of {len(terms)} modules cannot be combined", refused,
                            mend="adapterhub convert --as full --base CKPT makes a difference of each, which can be added.")  # fmt: skip


def _faults(terms: Sequence[Term], mixing: Mixing) -> Iterator[str]:
    if any(term.is_embedding for term in terms):
        if any(not same(term.tensors, terms[0].tensors) for term in terms):
            yield "embeddings of one token that are not the same"
        return
    extents = {extent(term.tensors) for term in terms}
    if len(extents) > 1 and all(None not in size for size in extents):
        yield "weights of different shapes, " + " and ".join(f"{rows}×{columns}" for rows, columns in extents)
    lengths = {term.tensors[role].size for term in terms for role in _BIASES if role in term.tensors}
    if len(lengths) > 1:
        yield "biases of different lengths, " + " and ".join(map(str, sorted(lengths)))
    for term in terms:
        algorithm = algorithm_of(term.tensors)
        name = label(term.tensors, algorithm) if algorithm else "this"
        if len(terms) == 1 and mixing.method is None:
            why = not_linear(term.tensors) if term.weight != 1 else None
        else:
            why = f"what {name} changes depends on the weights" if needs_base(term.tensors) else None
        if why:
            yield f"{term.name}: {why}"
