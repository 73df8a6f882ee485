"""What a written LoRA does, against what it should do: ΔW of every module in float64, computed twice."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from torch.linalg import vector_norm

from adapterhub.adapter import Module, Role, Roles
from adapterhub.errors import AdapterhubError, BrokenAdapter, RefusedInput
from adapterhub.operations.base import Base
from adapterhub.operations.compare import SAME, Gap, distance
from adapterhub.operations.lora import deltas
from adapterhub.operations.lora.threads import each, sizes
from adapterhub.operations.proof import Proof
from adapterhub.operations.source import open_adapter


class Effect(NamedTuple):
    """ΔW of one module as a row of numbers, and Δb; None where it changes neither weight nor bias."""

    weight: Tensor | None
    bias: Tensor | None

    def times(self, factor: float) -> Effect:
        """The same at another strength."""
        return Effect(*(None if part is None else factor * part for part in self))


Wanted = Callable[[Module], Effect]
"""What a module of the result should do."""


def effect(module: Module, tensors: Roles, base: Base) -> Effect:
    """What `tensors` do: at a stand-in for the weight, where ΔW depends on that."""
    if Role.VECTORS in tensors or Role.OUTPUT_VECTORS in tensors:
        return Effect(None, None)
    found = deltas.delta(tensors)
    weight = base.stand_in(module, base.shape(module, tensors) or ()) if found.needs_base else None
    return Effect(deltas.change(tensors, weight).flatten(), found.bias())


@dataclass(kw_only=True)
class Measure(Proof):
    """The proof of a file that is not what its source was. `squares` are ‖ΔW_out − ΔW_in‖² and ‖ΔW_in‖² by module."""

    wanted: Wanted
    squares: dict[Module, tuple[float, float]] = field(default_factory=dict)

    def error(self, module: Module) -> float:
        """‖ΔW_out − ΔW_in‖ / ‖ΔW_in‖ of one module."""
        return _ratio(*self.squares[module])

    def overall(self) -> float:
        """The same over all modules together."""
        off, whole = zip(*self.squares.values(), strict=True)
        return _ratio(math.fsum(off), math.fsum(whole))

    def _measure(self, path: Path) -> Gap:
        worst = SAME
        made = self.made.adapter
        with open_adapter(path, architecture=made.architecture) as again:
            found = again.adapter.modules()
            for module in made.modules():
                if module not in found:
                    raise AdapterhubError(f"{'.'.join(module)} is not in what was written: nothing was put in place")
            for gap in each(lambda module: self._compared(module, found[module]), sizes(made.modules())):
                worst = worst.max(gap)
        return worst

    def _compared(self, module: Module, tensors: Roles) -> Gap:
        wanted, written = self.wanted(module), effect(module, tensors, self.base)
        size = _finite_norm(module, wanted, written)
        gap = distance(wanted.bias, written.bias)
        if wanted.weight is None or written.weight is None:
            return gap
        self.squares[module] = (float(vector_norm(written.weight - wanted.weight)) ** 2, size**2)
        return gap.max(distance(wanted.weight, written.weight))


def _ratio(off: float, whole: float) -> float:
    return math.sqrt(off / whole) if whole else (math.inf if off else 0.0)


def _finite_norm(module: Module, wanted: Effect, written: Effect) -> float:
    """‖ΔW‖ of what is wanted; refused where either holds a number that is none, which its norm shows."""
    name = ".".join(module)
    norms, others = (
        [0.0 if part is None else float(vector_norm(part)) for part in found] for found in (wanted, written)
    )
    if not all(map(math.isfinite, norms)):
        raise BrokenAdapter(f"{name}: values are not finite", [name], mend="adapterhub validate lists such modules.")
    if not all(map(math.isfinite, others)):
        raise RefusedInput(f"{name}: a number becomes too large for its dtype",
                           mend="Give --dtype fp32 or bf16, or a smaller factor.")  # fmt: skip
    return norms[0]
