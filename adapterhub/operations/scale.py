"""`scale`: an adapter of any kind at another strength; what it is, is decided by its content."""

from __future__ import annotations

import math
from pathlib import Path

import adapterhub.layouts as layouts
from adapterhub import files
from adapterhub.adapter import Kind
from adapterhub.documents import Conversion
from adapterhub.errors import UsageError
from adapterhub.operations.recipe import recorded


@recorded("scale", "source")
def scale(
    source: Path | str,
    target: Path | str,
    factor: float,
    *,
    te: float | None = None,
    into: str | None = None,
    to: str | None = None,
    for_tool: str | None = None,
    architecture: str | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> Conversion:
    """Writes the adapter at `source` with `factor` times its effect to `target`.

    LoRAs: `te` is the factor of the text encoders, if it is another; `into` "alpha" (which loses nothing, and is usual) or
    "weights" is where it goes. Embeddings: every vector times `factor`. Hypernetworks: what they add, times `factor`. The
    layout is `to`, or what `for_tool` reads, or the source's own. Raises UsageError for an argument that the kind has no use
    for, RefusedInput where a strength is not linear.
    """
    if not math.isfinite(factor):
        raise UsageError(f"{factor} is no factor", mend="Give a finite number.")
    kind = _kind(Path(source), architecture)
    if kind is not Kind.LORA and (te is not None or into is not None):
        raise UsageError(f"{source} is no LoRA", mend="--te and --into are for LoRAs.")
    if kind is Kind.EMBEDDING:
        return _embedding(source, target, factor, to=to, for_tool=for_tool, dry_run=dry_run, force=force)
    if kind is Kind.HYPERNETWORK:
        return _hypernetwork(source, target, factor, to=to, for_tool=for_tool, dry_run=dry_run, force=force)
    from adapterhub.operations.lora.scale import scale as of_lora

    return of_lora(source, target, factor, te=te, into=into or "alpha", to=to, for_tool=for_tool,
                   architecture=architecture, dry_run=dry_run, force=force)  # fmt: skip


def _kind(path: Path, architecture: str | None) -> Kind:
    with files.read(path) as package:
        return layouts.identify(package, architecture=architecture).kind


def _embedding(
    source: Path | str, target: Path | str, factor: float, *, to: str | None, for_tool: str | None, dry_run: bool, force: bool
) -> Conversion:  # fmt: skip
    from adapterhub.operations.embedding.combine import scaled
    from adapterhub.operations.embedding.rework import Output, rework

    output = Output(target, to, for_tool, None, None, dry_run, force)
    return rework(
        "embedding scale", [Path(source)], output, lambda adapter, ledger, dtype: scaled(adapter, factor, dtype, ledger)
    )


def _hypernetwork(
    source: Path | str, target: Path | str, factor: float, *, to: str | None, for_tool: str | None, dry_run: bool, force: bool
) -> Conversion:  # fmt: skip
    from adapterhub.operations.hypernetwork.tools import scale as of_hypernetwork

    if for_tool or dry_run:
        raise UsageError("of a hypernetwork the layout is named by --to, and nothing is said without writing")
    return of_hypernetwork(source, target, factor, to=to, force=force)
