"""The proof of a conversion: the written file, read by nothing but its own names, does what the source does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from adapterhub.adapter import Adapter, Kind, Module, Role, Roles
from adapterhub.documents import Approximation, Problem
from adapterhub.errors import AdapterhubError
from adapterhub.files import DIRECTORY
from adapterhub.fingerprint import structure
from adapterhub.operations.base import Base
from adapterhub.operations.compare import DIFFERENT, SAME, Gap, counterparts, gap
from adapterhub.operations.problems import grouped
from adapterhub.operations.source import Source, open_adapter
from adapterhub.operations.values import heeded, not_finite
from adapterhub.operations.work import Cut, Made

_KNOWN = frozenset({"missing-weights"})
"""What was wrong with the source too."""


def ratio(off: float, whole: float) -> float:
    """A share, also of nothing."""
    return off / whole if whole else (math.inf if off else 0.0)


def costs(cuts: Mapping[Module, Cut], proof: Proof | None) -> tuple[list[Approximation], float | None]:
    """What a lower rank costs each module, as it was measured, else as it was foretold; and what it costs all together, measured."""
    measured = proof if proof is not None and proof.squares else None
    errors = {module: cut.error if measured is None else measured.error(module) for module, cut in cuts.items()}
    found = [Approximation(module=".".join(module), rank=cut.rank, error=errors[module], captured=1 - errors[module] ** 2)
             for module, cut in cuts.items()]  # fmt: skip
    return found, measured.overall() if measured is not None and found else None


@dataclass
class Proof:
    """Called with what was written, before it is put in place: measures the worst gap to the source in the modules that
    `made` still has; of a whole model only the headers, unless `verify` reads every byte back. A source that changed
    meanwhile proves nothing and is refused.
    """

    source: Source
    made: Made
    base: Base
    measured: bool
    verify: bool = False
    gap: Gap | None = None
    odd: list[Problem] = field(default_factory=list)
    squares: dict[Module, tuple[float, float]] = field(default_factory=dict)
    """‖ΔW_out − ΔW_in‖² and ‖ΔW_in‖² by module, where some are of lower rank."""

    def __call__(self, path: Path) -> None:
        if self.measured:
            self.gap = self._measure(path)
            self.made.problems.extend(grouped(self.odd))
        self.source.package.ensure_unchanged()

    def error(self, module: Module) -> float:
        """‖ΔW_out − ΔW_in‖ / ‖ΔW_in‖ of one module."""
        return math.sqrt(ratio(*self.squares[module]))

    def overall(self) -> float:
        """The same over all modules together."""
        off, whole = zip(*self.squares.values(), strict=True)
        return math.sqrt(ratio(math.fsum(off), math.fsum(whole)))

    def _measure(self, path: Path) -> Gap | None:
        made, source = self.made.adapter, self.made.source.modules()
        worst = SAME
        with self._written(path) as again:
            if made.kind is Kind.CHECKPOINT and not self.verify:
                self._compare_headers(again)
                return None
            if structure(self.made.source) != structure(again):
                return DIFFERENT
            there, found = counterparts(made, again), again.modules()
            for module in made.modules():
                if module not in there:
                    raise AdapterhubError(f"{'.'.join(module)} is not in what was written: nothing was put in place")
                before, after = source[module], found[there[module]]
                worst = worst.max(self._gap(module, before, after))
                if self.made.cuts:
                    self._square(module, before, after)
        return worst

    def _square(self, module: Module, before: Roles, after: Roles) -> None:
        from adapterhub.operations.lora.effect import apart, effect

        wanted, written = (effect(module, roles, self.base).weight for roles in (before, after))
        if wanted is not None and written is not None:
            found = apart(wanted, written)
            self.squares[module] = (found.off, found.whole)

    def _gap(self, module: Module, before: Roles, after: Roles) -> Gap:
        """The gap of one module; what of it is no number is told, since it is read anyway."""
        broken: dict[Role, int] = {}
        found = gap(module, before, heeded(after, broken), self.base)
        if broken:
            self.odd.append(not_finite(".".join(module), broken, "warning"))
        return found

    @contextmanager
    def _written(self, path: Path) -> Iterator[Adapter]:
        """What was written: one model or, in a folder of embeddings, each file by itself."""
        made, package = self.made.adapter, self.made.encoded.package
        several = made.kind is Kind.EMBEDDING and package.container == DIRECTORY
        with ExitStack() as stack:
            parts = [
                stack.enter_context(
                    open_adapter(path / name, architecture=made.architecture or None, forgiven=_KNOWN)
                ).adapter
                for name in (package.files if several else ("",))
            ]
            yield parts[0].with_tensors({key: tensor for part in parts for key, tensor in part.tensors.items()})

    def _compare_headers(self, again: Adapter) -> None:
        """Whether every tensor is there in its dtype and shape. Of a whole model the bytes were copied, and are not read again."""
        for key, tensor in self.made.adapter.tensors.items():
            found = again.tensors.get(key)
            if found is None or (found.dtype, found.shape) != (tensor.dtype, tensor.shape):
                raise AdapterhubError(
                    f"{'.'.join(key)} is not in what was written as it should be: nothing was put in place"
                )
