"""The proof of a conversion: the written file, read by nothing but its own names, does what the source does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adapterhub.errors import AdapterhubError
from adapterhub.operations.base import Base
from adapterhub.operations.compare import SAME, Gap, counterparts, gap
from adapterhub.operations.source import Source, open_adapter
from adapterhub.operations.work import Made


@dataclass
class Proof:
    """Called with what was written, before it is put in place: measures the worst gap to the source in the modules that
    `made` still has. A source that changed meanwhile proves nothing and is refused.
    """

    source: Source
    made: Made
    base: Base
    measured: bool
    gap: Gap | None = None

    def __call__(self, path: Path) -> None:
        if self.measured:
            self.gap = self._measure(path)
        self.source.package.ensure_unchanged()

    def _measure(self, path: Path) -> Gap:
        source, made = self.made.source, self.made.adapter
        worst = SAME
        with open_adapter(path, architecture=made.architecture or None) as again:
            there, found = counterparts(made, again.adapter), again.adapter.modules()
            for module, tensors in source.modules().items():
                if module not in made.modules():
                    continue
                if module not in there:
                    raise AdapterhubError(f"{'.'.join(module)} is not in what was written: nothing was put in place")
                worst = worst.max(gap(module, tensors, found[there[module]], self.base))
        return worst
