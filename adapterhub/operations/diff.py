"""`diff`: how far two adapters do the same, whatever their layouts, algorithms and dtypes."""

from __future__ import annotations

from pathlib import Path

from adapterhub.documents import Difference, ModuleDifference
from adapterhub.operations.base import base_of
from adapterhub.operations.compare import NOISE, counterparts, gaps
from adapterhub.operations.source import open_adapter


def diff(a: Path | str, b: Path | str, *, base: Path | str | None = None, tolerance: float = 0.0) -> Difference:
    """Compares ΔW of every module of `a` and `b` in float64; equal means that no relative gap exceeds `tolerance`,
    nor what float64 arithmetic makes by itself (1e-13).

    Algorithms that depend on the base weights are compared on those of `base` or, without one, on a stand-in of fixed
    random numbers: adapters that change that alike do the same.
    """
    with open_adapter(Path(a)) as first, open_adapter(Path(b), kinds=(first.identity.kind,)) as second:
        with base_of(Path(base) if base is not None else None, first.adapter.architecture) as weights:
            found = dict(gaps(first.adapter, second.adapter, weights))
        paired = counterparts(first.adapter, second.adapter)
        left, right = first.adapter.modules().keys(), second.adapter.modules().keys()
    only_a, only_b = sorted(left - paired.keys()), sorted(right - {*paired.values()})
    differing = sorted(((gap, module) for module, gap in found.items() if gap.relative > max(tolerance, NOISE)),
                       key=lambda pair: (-pair[0].relative, pair[1]))  # fmt: skip
    return Difference(
        a=str(a),
        b=str(b),
        equal=not (only_a or only_b or differing),
        max_abs=max((gap.max_abs for gap in found.values()), default=0.0),
        max_error=max((gap.relative for gap in found.values()), default=0.0),
        modules=len(found),
        only_in_a=[".".join(module) for module in only_a],
        only_in_b=[".".join(module) for module in only_b],
        differences=[
            ModuleDifference(
                component=module.component, module=module.module, max_abs=gap.max_abs, relative=gap.relative
            )
            for gap, module in differing
        ],
    )
