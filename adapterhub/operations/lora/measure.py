"""What a written LoRA does, against what it should do: ΔW of every module in float64, computed twice."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch.linalg import vector_norm

from adapterhub.adapter import Module, Roles
from adapterhub.errors import AdapterhubError, BrokenAdapter, RefusedInput
from adapterhub.operations.compare import DIFFERENT, SAME, Gap, distance
from adapterhub.operations.lora.effect import Effect, apart, effect
from adapterhub.operations.lora.threads import each, sizes
from adapterhub.operations.proof import Proof, ratio
from adapterhub.operations.source import open_adapter

Wanted = Callable[[Module], Effect]
"""What a module of the result should do."""


@dataclass(kw_only=True)
class Measure(Proof):
    """The proof of a file that is not what its source was; `vanished` are the modules whose ΔW is zero, and should not be."""

    wanted: Wanted
    vanished: set[Module] = field(default_factory=set)

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
        _require_finite(
            module, *(0.0 if part is None else float(vector_norm(part)) for part in (wanted.bias, written.bias))
        )
        gap = distance(wanted.bias, written.bias)
        if wanted.weight is None or written.weight is None:
            return gap
        if wanted.weight.numel() != written.weight.numel():
            return DIFFERENT
        found = apart(wanted.weight, written.weight)
        _require_finite(module, found.whole, found.other)
        self.squares[module] = (found.off, found.whole)
        if found.whole and not found.other:
            self.vanished.add(module)
        return gap.max(Gap(found.furthest, ratio(found.furthest, found.largest)))


def _require_finite(module: Module, wanted: float, written: float) -> None:
    """Refuses norms, or their squares, that are none because one of the numbers is."""
    name = ".".join(module)
    if not math.isfinite(wanted):
        raise BrokenAdapter(f"{name}: values are not finite", [name], mend="adapterhub validate lists such modules.")
    if not math.isfinite(written):
        raise RefusedInput(f"{name}: a number becomes too large for its dtype",
                           mend="Give a smaller factor; or scale --into alpha, and elsewhere --dtype fp32 or bf16.")  # fmt: skip
