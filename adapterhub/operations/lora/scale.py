"""Strength: ΔW of every module times a factor, in alpha where that scales it, else in its values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from adapterhub.adapter import Adapter, Key, Module, Role, Roles
from adapterhub.algorithms import algorithm_of, rank_of
from adapterhub.documents import Conversion, Problem
from adapterhub.errors import BrokenAdapter, RefusedInput, UnknownName, UsageError
from adapterhub.operations.base import Base
from adapterhub.operations.ledger import Ledger
from adapterhub.operations.lora.effect import Effect, effect
from adapterhub.operations.lora.fold import fold, sunk, sunken
from adapterhub.operations.lora.rework import Changed, Output, rework
from adapterhub.operations.problems import warning
from adapterhub.operations.work import Request
from adapterhub.tensors import Buffer, LazyTensor, holds, item, scalar

R = Role
INTO = ("alpha", "weights")
_ADDED = (R.DIFF, R.DIFF_B, R.W_NORM, R.B_NORM, R.RESIDUAL_VALUES, R.IA3_WEIGHT)
"""Roles that ΔW is linear in and that alpha does not scale."""
_NO_STRENGTH: Mapping[Role, str] = {
    R.DORA_SCALE: "a magnitude (DoRA) is the norm of W + ΔW, and W + m · (W′ − W) has no such form",
    R.OFT_BLOCKS: "a rotation (OFT, BOFT) times a number is no rotation",
    R.OFT_R: "a rotation (OFT) times a number is no rotation",
    R.BOFT_R: "a rotation (BOFT) times a number is no rotation",
    R.RESCALE: "rows that are rescaled after a rotation take no factor",
    R.SET_WEIGHT: "a weight that replaces another has no strength",
}
_SCALES = (R.ALPHA, R.SCALE, R.SCALAR)
_SMALLEST, _LARGEST = 2.0**-126, 2.0**128 - 2.0**104
"""Between these F32 rounds, and below and above it loses."""


def scale(
    source: Path | str,
    target: Path | str,
    factor: float,
    *,
    te: float | None = None,
    into: str = "alpha",
    to: str | None = None,
    for_tool: str | None = None,
    architecture: str | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> Conversion:
    """Writes the LoRA at `source` to `target` with ΔW times `factor`, in the text encoders times `te` if that is given.

    Into "alpha" where a layout keeps one, which changes no other number; into "weights" one factor of each product is
    multiplied, exactly for powers of two, else rounded once. A factor of 0 always goes into the weights: trainers take an
    alpha of 0 for the rank. What no alpha scales is multiplied itself: full differences,
    norms, biases, IA3. Embeddings that travel along stay. Raises BrokenAdapter, listing them, for modules whose strength is
    not linear: DoRA, OFT, BOFT.
    """
    if into not in INTO:
        raise UnknownName("place of a factor", into, INTO)
    factors = {"unet": factor, "te": factor if te is None else te}
    if not all(map(math.isfinite, factors.values())):
        raise UsageError("a factor is a finite number", mend=f"Given: {', '.join(map(str, factors.values()))}.")

    def of(module: Module) -> float:
        return factors[_side(module)]

    def change(adapter: Adapter, ledger: Ledger, request: Request) -> Changed:
        modules = adapter.modules()
        _ensure_linear({module: roles for module, roles in modules.items() if of(module) != 1})
        tensors: dict[Key, LazyTensor] = {}
        lost = 0
        for module, roles in modules.items():
            made = scaled(roles, of(module), into_weights=into == "weights")
            lost += _sunk(roles, made, of(module))
            _tell(ledger, module, roles, made, f"× {of(module):.9g}")
            tensors |= {Key(*module, role): tensor for role, tensor in made.items()}
        base = Base(adapter.architecture, {})
        return Changed(adapter.with_tensors(tensors), partial(_wanted, modules, base, of),
                       problems=[*sunken(lost), *(_idle(modules) if te is not None else ())], approximate=lost > 0)  # fmt: skip

    return rework("scale", [Path(source)], Output(target, to, for_tool, None, architecture, dry_run, force), change)


def _side(module: Module) -> str:
    """Which of the two factors a module takes."""
    return "te" if module.component.startswith("text_encoder") else "unet"


def _idle(modules: Iterable[Module]) -> Iterator[Problem]:
    """What is told of a factor that nothing takes, where there are two."""
    for side in {"unet", "te"} - set(map(_side, modules)):
        which, what = ("--te", "text encoder") if side == "te" else ("FACTOR", "UNet")
        yield warning("no-effect", which, f"it changes nothing: no module of a {what} is in the file")


def scaled(tensors: Roles, factor: float, *, into_weights: bool = False) -> dict[Role, LazyTensor]:
    """One module with `factor` times its ΔW and Δb; tensors that stay are the same objects. BrokenAdapter: see `linear`."""
    if factor == 1 or R.VECTORS in tensors or R.OUTPUT_VECTORS in tensors:
        return dict(tensors)
    if why := not_linear(tensors):
        raise BrokenAdapter(f"takes no strength: {why}")
    algorithm = algorithm_of(tensors)
    made = dict(tensors)
    if algorithm is not None and algorithm.factors:
        by_alpha = factor and not into_weights and (R.SCALE in tensors or rank_of(tensors) is not None)
        made = _by_alpha(tensors, factor) if by_alpha else _by_weights(tensors, factor)
    made |= {role: _times(tensors[role], factor) for role in _ADDED if role in tensors}
    if R.IA3_L in tensors:
        made[R.IA3_L] = _about_one(tensors[R.IA3_L], factor)
    if R.OFT_DIAG in tensors:
        made[R.OFT_DIAG] = _about_one(tensors[R.OFT_DIAG], factor)
    return made


def not_linear(tensors: Roles) -> str | None:
    """Why no factor scales a module, if that is so."""
    return next((why for role, why in _NO_STRENGTH.items() if role in tensors), None)


def _ensure_linear(modules: Mapping[Module, Roles]) -> None:
    refused = {".".join(module): why for module, roles in modules.items() if (why := not_linear(roles))}
    if refused:
        reasons = "; ".join(dict.fromkeys(refused.values()))
        raise BrokenAdapter(f"{len(refused)} of {len(modules)} modules take no strength, {next(iter(refused))} first: {reasons}",
                            list(refused), mend="adapterhub convert --as full --base CKPT makes it a difference, which does.")  # fmt: skip


def _by_alpha(tensors: Roles, factor: float) -> dict[Role, LazyTensor]:
    """alpha (or A1111's scale) times `factor`: in its own dtype if that holds it, else in F32."""
    role = R.SCALE if R.SCALE in tensors else R.ALPHA
    old = tensors.get(role) or scalar(float(rank_of(tensors) or 0))
    before, value = item(old), item(old) * factor
    dtype = old.dtype if holds(old.dtype, value) else "F32"
    kept = holds(dtype, value) or _SMALLEST <= abs(value) <= _LARGEST
    if math.isfinite(before) and (not kept or math.isinf(value) or (value == 0) != (before == 0 or factor == 0)):
        raise RefusedInput(f"{role} would be {before:g} · {factor:g}, which F32 does not hold",
                           mend="Use a factor nearer to 1.")  # fmt: skip
    return {**tensors, role: scalar(value, dtype).reshape(*old.shape)}


def _by_weights(tensors: Roles, factor: float) -> dict[Role, LazyTensor]:
    """The factor of each product that loses least, times `factor`."""
    aside = {role: tensors[role] for role in _SCALES if role in tensors}
    factors = {role: tensor for role, tensor in tensors.items() if role not in aside}
    folded, _ = fold({**factors, R.SCALE: scalar(factor, "F64")})
    return {**folded, **aside}


def _sunk(before: Roles, after: Roles, factor: float) -> int:
    """How many numbers that `factor` multiplied lost more than rounding."""
    changed = (
        role for role in before if after[role] is not before[role] and role not in (*_SCALES, R.IA3_L, R.OFT_DIAG)
    )
    return sum(sunk(before[role], after[role], factor) for role in changed)


def _times(source: LazyTensor, factor: float) -> LazyTensor:
    """`source` · `factor`, rounded once to its dtype when it is read."""

    def chunks() -> Iterable[Buffer]:
        from adapterhub.operations.lora import deltas

        return deltas.lazy(deltas.tensor(source) * factor, source.dtype).chunks()

    return LazyTensor(source.dtype, source.shape, chunks)


def _about_one(source: LazyTensor, factor: float) -> LazyTensor:
    """1 + factor · (x − 1) in F32, because 1 + x loses what x holds near 0; for blocks of a rotation 1 is the identity."""
    dtype = "F64" if source.dtype == "F64" else "F32"

    def chunks() -> Iterable[Buffer]:
        import torch

        from adapterhub.operations.lora import deltas

        value = deltas.tensor(source)
        one = torch.eye(value.shape[-1], dtype=value.dtype) if value.ndim == 3 else 1.0
        return deltas.lazy(one + factor * (value - one), dtype).chunks()

    return LazyTensor(dtype, source.shape, chunks)


def _tell(ledger: Ledger, module: Module, before: Roles, after: Roles, reason: str) -> None:
    changed = [Key(*module, role) for role, tensor in after.items() if before.get(role) is not tensor]
    stood = [key for key in changed if key.role in before] or [Key(*module, role) for role in before]
    if changed:
        ledger.replace(stood, {*changed, *stood}, "compute", reason)


def _wanted(modules: Mapping[Module, Roles], base: Base, factor: Callable[[Module], float], module: Module) -> Effect:
    found = effect(module, modules[module], base)
    return found.times(factor(module)) if factor(module) != 1 else found
