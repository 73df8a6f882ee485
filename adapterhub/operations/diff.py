"""`diff`: how far two adapters do the same, whatever their layouts, algorithms and dtypes, or two models are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapterhub import files
from adapterhub.adapter import Adapter, Kind, Module
from adapterhub.documents import Difference, ModuleDifference
from adapterhub.errors import UsageError
from adapterhub.layouts.checkpoint.aside import ASIDE, extra_of
from adapterhub.operations.base import base_of
from adapterhub.operations.compare import NOISE, Gap, counterparts, gaps
from adapterhub.operations.source import Source, open_adapter

_COMPARABLE = frozenset({"missing-weights"})
"""What is wrong with a model that can be compared all the same."""


def diff(
    a: Path | str, b: Path | str, *, base: Path | str | None = None, tolerance: float = 0.0, variant: str | None = None
) -> Difference:
    """Compares ΔW of every module of `a` and `b` in float64; equal means that no relative gap exceeds `tolerance`,
    nor what float64 arithmetic makes by itself (1e-13).

    Algorithms that depend on the base weights are compared on those of `base` or, without one, on a stand-in of fixed
    random numbers: adapters that change that alike do the same. Of whole models the weights themselves are compared, by
    their numbers and not their dtypes; of what stands beside them, a marker that one lacks, other bits of what images may
    depend on, and another prediction (noise, velocity) where both tell theirs are differences, and the rest is told. `variant` is that of each folder whose
    weights are there in several.
    """
    with (
        open_adapter(
            Path(a), variant=variant, strict=not files.has_variant(variant, b, base), forgiven=_COMPARABLE
        ) as first,
        open_adapter(
            Path(b), variant=variant, strict=False, kinds=(first.identity.kind,), forgiven=_COMPARABLE
        ) as second,
    ):
        mine, theirs = first.adapter, second.adapter
        if mine.kind is Kind.CHECKPOINT:
            if base is not None:
                raise UsageError("whole models are compared as they are, without a base", mend="Leave out --base.")
            return Difference(a=str(a), b=str(b), **_of_models(first, second, tolerance))
        origin = Path(base) if base is not None else None
        with base_of(origin, mine.architecture, first.identity.also, variant=variant) as weights:
            found = dict(gaps(mine, theirs, weights))
        paired = counterparts(mine, theirs)
        only_a, only_b = mine.modules().keys() - paired.keys(), theirs.modules().keys() - {*paired.values()}
        return Difference(a=str(a), b=str(b), **_compared(found, only_a, only_b, max(tolerance, NOISE)))


def _compared(
    found: Mapping[Module, Gap], only_a: set[Module], only_b: set[Module], tolerance: float
) -> dict[str, Any]:
    differing = sorted(((gap, module) for module, gap in found.items() if gap.relative > tolerance),
                       key=lambda pair: (-pair[0].relative, pair[1]))  # fmt: skip
    return {
        "equal": not (only_a or only_b or differing),
        "max_abs": max((gap.max_abs for gap in found.values()), default=0.0),
        "max_error": max((gap.relative for gap in found.values()), default=0.0),
        "modules": len(found),
        "only_in_a": [".".join(module) for module in sorted(only_a)],
        "only_in_b": [".".join(module) for module in sorted(only_b)],
        "differences": [
            ModuleDifference(
                component=module.component, module=module.module, max_abs=gap.max_abs, relative=gap.relative
            )
            for gap, module in differing
        ],
    }


def _of_models(first: Source, second: Source, tolerance: float) -> dict[str, Any]:
    from adapterhub.operations.checkpoint import difference
    from adapterhub.operations.checkpoint.beside import beside
    from adapterhub.operations.checkpoint.markers import with_markers
    from adapterhub.operations.checkpoint.prediction import unlike

    (a, _), (b, _) = (with_markers(source.adapter, source) for source in (first, second))
    found = difference.changes(a, b)
    parts = difference.components(a, b, found)
    mine, theirs = ({key for key in adapter.tensors if key.component != ASIDE} for adapter in (a, b))
    fields = _compared(difference.gaps(found), _modules(mine - theirs), _modules(theirs - mine), tolerance)
    extras, said = list(beside(a, b)), list(unlike(first, second))
    return {
        **fields,
        "equal": fields["equal"] and not said and not any(extra.counts for extra in extras),
        "summary": [*said, *difference.sentences(a, b, found, parts, ("the first", "the second"))],
        "components": parts,
        "extras_in_a": _extras(a),
        "extras_in_b": _extras(b),
        "beside": extras,
    }


def _modules(keys: set[Any]) -> set[Module]:
    return {Module(key.component, key.module) for key in keys}


def _extras(adapter: Adapter) -> dict[str, int]:
    return dict(Counter(extra_of(key.module).name for key in adapter.tensors if key.component == ASIDE))
