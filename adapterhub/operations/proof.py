"""The proof of a conversion: the written file, read by nothing but its own names, does what the source does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adapterhub.adapter import Adapter
from adapterhub.errors import AdapterhubError
from adapterhub.operations.base import Base
from adapterhub.operations.compare import SAME, Gap, gap
from adapterhub.operations.source import Source, open_adapter


@dataclass
class Proof:
    """Called with what was written, before it is put in place: measures the worst gap to `source` in the modules that
    `made` still has. A source that changed meanwhile proves nothing and is refused.
    """

    source: Source
    made: Adapter
    base: Base
    measured: bool
    gap: Gap | None = None

    def __call__(self, path: Path) -> None:
        if self.measured:
            self.gap = self._measure(path)
        self.source.package.ensure_unchanged()

    def _measure(self, path: Path) -> Gap:
        worst = SAME
        with open_adapter(path, architecture=self.made.architecture) as again:
            found = again.adapter.modules()
            for module, tensors in self.source.adapter.modules().items():
                if module not in self.made.modules():
                    continue
                if module not in found:
                    raise AdapterhubError(f"{'.'.join(module)} is not in what was written: nothing was put in place")
                worst = worst.max(gap(module, tensors, found[module], self.base))
        return worst
