"""Lower ranks: every module by its best approximation, computed from its factors and never from ΔW."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from adapterhub.adapter import Adapter, Key, Module, Role, Roles
from adapterhub.algorithms import algorithm_of, label, rank_of
from adapterhub.documents import Conversion, Problem
from adapterhub.errors import UsageError
from adapterhub.operations.base import Base
from adapterhub.operations.ledger import Ledger
from adapterhub.operations.lora import deltas
from adapterhub.operations.lora.as_full import bias_of
from adapterhub.operations.lora.as_lora import as_lora
from adapterhub.operations.lora.deltas import Additive
from adapterhub.operations.lora.deltas.truncation import Svd
from adapterhub.operations.lora.effect import effect
from adapterhub.operations.lora.low_rank import Bound, bound
from adapterhub.operations.lora.naming import naming
from adapterhub.operations.lora.pairs import dtype_of, factors, has_pair
from adapterhub.operations.lora.rework import Changed, Output, rework, told_anew
from adapterhub.operations.lora.threads import each, sizes
from adapterhub.operations.problems import warning
from adapterhub.operations.recipe import recorded
from adapterhub.operations.work import Cut, Request
from adapterhub.tensors import DTYPE_BITS, LazyTensor

R = Role
_PLAIN = frozenset({R.DOWN, R.UP, R.ALPHA, R.UP_BIAS, R.DIFF_B})
_HEADER = 256
"""Bytes that a header takes for a tensor, at most: its name, dtype, shape and place."""

Choice = Callable[[Module, Svd], int]
"""The rank that a module is to have."""


@recorded("resize", "source")
def resize(
    source: Path | str,
    target: Path | str,
    *,
    rank: int | None = None,
    tolerance: float | None = None,
    size: float | None = None,
    energy: float | None = None,
    to: str | None = None,
    for_tool: str | None = None,
    dtype: str | None = None,
    architecture: str | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> Conversion:
    """Writes the LoRA at `source` to `target` with lower ranks, each module by its best approximation (Frobenius).

    One of: `rank`, the most that a module may have; `tolerance`, the smallest ranks with ‖ΔW_out − ΔW_in‖ ≤ tolerance · ‖ΔW_in‖
    in every module; `energy`, the share of every ‖ΔW‖² to keep; `size`, the ranks that keep the most of Σ‖ΔW‖² in a file of at
    most so many MB (10⁶ bytes). LoHa, LoKr and convolutions with cores become LoRA. Modules without factors (full
    differences, norms, DoRA, OFT …) stay and are told. Rounded once to `dtype`, or to the factors' own.
    """
    within = _bound(rank, tolerance, size, energy)

    def change(adapter: Adapter, ledger: Ledger, request: Request) -> Changed:
        modules = adapter.modules()
        choice: Choice = (
            (lambda module, svd: within.of(svd)) if within else _fitting(adapter, request, (size or 0.0) * 1e6)
        )
        tensors: dict[Key, LazyTensor] = {}
        cuts: dict[Module, Cut] = {}
        resized = each(lambda module: _resized(module, modules[module], choice, within, request.dtype), sizes(modules))
        for (module, roles), (made, cut) in zip(modules.items(), resized, strict=True):
            if cut is not None:
                cuts[module] = cut
            if made is not roles:
                reason = str(cut) if cut else "as lora"
                ledger.replace(
                    [Key(*module, role) for role in roles], [Key(*module, role) for role in made], "compute", reason
                )
            tensors |= {Key(*module, role): tensor for role, tensor in made.items()}
        base = Base(adapter.architecture, {})
        return Changed(told_anew(adapter.with_tensors(tensors)), lambda module: effect(module, modules[module], base),
                       cuts, list(_left(modules)), tolerance=within.tolerance if within else None)  # fmt: skip

    output = Output(target, to, for_tool, dtype, architecture, dry_run, force)
    return rework("resize", [Path(source)], output, change)


def _bound(rank: int | None, tolerance: float | None, size: float | None, energy: float | None) -> Bound | None:
    """What ranks, tolerances and energies allow; None for a size, which is about all modules together."""
    given = [name for name, value in (("--rank", rank), ("--tolerance", tolerance), ("--size", size), ("--energy", energy))
             if value is not None]  # fmt: skip
    if len(given) != 1:
        why = f"{' and '.join(given)} say twice" if given else "say"
        raise UsageError(f"{why} how small it is to be", mend="Give one of --rank, --tolerance, --size and --energy.")
    if size is not None and not 0 < size < math.inf:
        raise UsageError(f"{size} is no size", mend="Give megabytes.")
    if energy is not None and not 0 < energy <= 1:
        raise UsageError(f"{energy} is no share", mend="Give a share of ‖ΔW‖² from 0 to 1, such as 0.99.")
    return bound(rank, tolerance if energy is None else math.sqrt(1 - energy))


def _resized(
    module: Module, roles: Roles, choice: Choice, within: Bound | None, dtype: str | None
) -> tuple[Roles, Cut | None]:
    """A module at the rank that is chosen, and what that costs; the same where nothing gets smaller."""
    if not has_pair(roles) or (within is not None and within.rank is not None and _is_plain(roles, within.rank)):
        return roles, None
    found = deltas.delta(roles)
    assert isinstance(found, Additive)
    with naming(module):
        svd = found.svd()
    rank = choice(module, svd)
    if _is_plain(roles, rank):
        return roles, None
    stored = dtype or dtype_of(roles)
    pair = found.pair()
    assert pair is not None
    if pair.rank <= rank:
        return as_lora(roles, dtype=dtype).tensors, None
    cut = svd.cut(rank)
    return factors(cut, pair.row, stored) | bias_of(found, roles, None, stored), Cut(rank, cut.error)


def _is_plain(roles: Roles, rank: int) -> bool:
    """Whether it is a LoRA of at most that rank, which can stay as it is."""
    return roles.keys() <= _PLAIN and R.DOWN in roles and roles[R.DOWN].shape[0] <= rank


def _left(modules: Mapping[Module, Roles]) -> Iterator[Problem]:
    """What has no factors to cut."""
    for module, roles in modules.items():
        algorithm = algorithm_of(roles)
        if (
            algorithm is not None
            and algorithm.name not in ("norm", "embedding")
            and not has_pair(roles)
            and not _is_bias(roles)
        ):
            yield warning("not-resized", ".".join(module), f"{label(roles, algorithm)} is no product of two matrices, and stays",
                          "adapterhub convert --as lora --rank R approximates it, with --base where it depends on that.")  # fmt: skip


def _is_bias(roles: Roles) -> bool:
    return roles.keys() <= {R.DIFF_B, R.ALPHA}


class _Step(NamedTuple):
    """One more rank for a module: what it keeps for a byte, and what it takes."""

    gain: float
    module: Module
    cost: int


def _fitting(adapter: Adapter, request: Request, room: float) -> Choice:
    """The ranks that keep the most of Σ‖ΔW‖² in `room` bytes: one more rank wherever a byte keeps the most.

    That is best possible, because the singular values of a module fall; UsageError where not even rank 1 fits.
    """
    steps: list[_Step] = []
    ranks: dict[Module, int] = {}
    left = room - sum(len(name) + len(text) + 8 for name, text in adapter.metadata.items()) - 1024
    modules = adapter.modules()
    products = sizes({module: roles for module, roles in modules.items() if has_pair(roles)})
    found = dict(zip(products, each(lambda module: _extent_and_sizes(module, modules[module]), products), strict=True))
    for module, roles in modules.items():
        left -= _HEADER * max(len(roles), 3)
        if module not in found:
            left -= sum(tensor.nbytes for tensor in roles.values())
            continue
        extent, singular = found[module]
        cost = extent * DTYPE_BITS[request.dtype or dtype_of(roles)] // 8
        left -= cost + sum(roles[role].nbytes for role in (R.DIFF_B, R.UP_BIAS) if role in roles)
        ranks[module] = 1
        most = rank_of(roles) if roles.keys() <= _PLAIN else None
        steps += [_Step(size**2 / cost, module, cost) for size in singular[1:most] if size > 0]
    if left < 0:
        raise UsageError(
            f"{room / 1e6:g} MB are too little, even at rank 1", mend=f"Give {(room - left) / 1e6:.3g} MB or more."
        )
    for step in sorted(steps, key=lambda step: -step.gain):
        if step.cost <= left:
            ranks[step.module] += 1
            left -= step.cost
    return lambda module, svd: ranks[module]


def _extent_and_sizes(module: Module, roles: Roles) -> tuple[int, list[float]]:
    """How many numbers a rank takes, and the singular values."""
    with naming(module):
        svd = deltas.delta(roles).svd()  # type: ignore[attr-defined] # what has a pair is additive
    return svd.up.shape[0] + svd.down.shape[1], svd.sizes.tolist()
