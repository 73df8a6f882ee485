"""`compatible`: whether an adapter will load, into which modules of a model, and what each reader leaves out."""

from __future__ import annotations

from pathlib import Path

from adapterhub.adapter import Kind
from adapterhub.documents import Compatibility, ModelFit, Verdict
from adapterhub.files import Package
from adapterhub.operations.fit.facts import facts_of
from adapterhub.operations.fit.model import fit_to
from adapterhub.operations.fit.verdicts import Names, readers
from adapterhub.operations.source import Source, open_adapter

_ADAPTERS = (Kind.LORA, Kind.EMBEDDING, Kind.HYPERNETWORK)


def compatible(
    adapter: Path | str | Package,
    checkpoint: Path | str | None = None,
    *,
    architecture: str | None = None,
    variant: str | None = None,
) -> Compatibility:
    """What becomes of the adapter at `adapter`, a path or an opened package, in the model at `checkpoint`, and in each program
    that reads such files.

    Only headers and alphas are read. Keys that no layout explains, and broken modules, are left out and told. Without
    `checkpoint` the readers alone are asked; `variant` is that of a folder whose weights are there in several. Raises
    NotAnAdapter where a file is not of its kind.
    """
    given = adapter if isinstance(adapter, Package) else Path(adapter)
    with open_adapter(given, architecture=architecture, allow_loss=True, kinds=_ADAPTERS) as source:
        fit = None if checkpoint is None else _fit(source, Path(checkpoint), variant)
        path = str(source.package.path)
        names = Names(path) if checkpoint is None else Names(path, str(checkpoint))
        verdicts = readers(facts_of(source), names)
        return Compatibility(
            path=path, kind=source.reading.kind, layout=source.layout.name,
            architecture=source.identity.architecture, fits=_fits(fit, verdicts), model=fit, readers=verdicts,
            problems=list(source.problems),
        )  # fmt: skip


def _fit(source: Source, checkpoint: Path, variant: str | None) -> ModelFit:
    with open_adapter(checkpoint, allow_loss=True, kinds=(Kind.CHECKPOINT,), variant=variant) as model:
        return fit_to(source, model, checkpoint)


def _fits(fit: ModelFit | None, verdicts: list[Verdict]) -> bool:
    if fit is None:
        return any(verdict.status == "loads" for verdict in verdicts)
    return fit.same_architecture and 0 < fit.present == fit.modules
