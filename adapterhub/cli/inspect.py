"""adapterhub inspect PATH..."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import adapterhub
from adapterhub.cli.options import as_json, base, debug, paths, variant
from adapterhub.cli.paths import each
from adapterhub.cli.terminal import columns, counts, escape, in_bytes, number, problems, trained

if TYPE_CHECKING:
    from adapterhub.documents import Inspection
    from adapterhub.documents.inspection import Audit

SHOWN = 10
"""How many modules of a spectrum are shown to people, those that stand out most first; --json has them all."""

_HEADS = ("  module", "rank", "effective", "for 99 %", "‖ΔW‖", "largest", "‖ΔW‖/‖W‖", "× median")


@click.command("inspect")
@paths
@as_json
@click.option("--hash", "hashed", is_flag=True, help="Read the whole file: digests and fingerprint.")
@click.option("--tensors", is_flag=True, help="List every tensor and what it was taken for.")
@click.option("--spectrum", is_flag=True, help="Of a LoRA: measure what it does to each weight.")
@base
@variant
@debug
def command(paths: tuple[Path | str, ...], as_json: bool, hashed: bool, **options: Any) -> int:
    return each(
        paths,
        lambda path: adapterhub.inspect(path, hash=hashed, **options),
        describe,
        as_json=as_json,
    )


def describe(found: Inspection) -> list[str]:
    """What a person wants to know of a file, one aligned line each; what does not apply is left out."""
    rows = [
        ("path", found.path),
        ("kind", found.kind),
        ("layout", found.layout or "none that is known"),
        ("container", found.container),
        ("architecture", " ".join(filter(None, (found.architecture or "unknown", found.variant)))),
        ("evidence", "; ".join(found.evidence)),
        ("algorithms", counts(found.algorithms)),
        ("components", counts(found.components)),
        *_parts(found),
        (
            "beside",
            ", ".join(f"{kind} {count} ({in_bytes(found.extra_bytes[kind])})" for kind, count in found.extras.items()),
        ),
        ("ranks", _values(found.ranks)),
        ("alphas", _values(found.alphas)),
        ("tokens", ", ".join(f"{token.token} ({token.vectors})" for token in found.tokens)),
        ("structure", ", ".join(f"{name} {value}" for name, value in (found.structure or {}).items())),
        ("tensors", f"{found.tensors:,} ({counts(found.dtypes)}), {found.parameters:,} numbers, {found.size:,} bytes"),
        ("trained", trained(found.metadata)),
        ("metadata", f"{len(found.metadata)} fields" if found.metadata else ""),
        ("fingerprint", found.fingerprint or ""),
        *_hashes(found),
    ]
    return (
        columns([row for row in rows if row[1]])
        + _spectrum(found.spectrum)
        + _listing(found)
        + problems(found.problems)
    )


def _parts(found: Inspection) -> Iterator[tuple[str, str]]:
    """The element types of each component of a whole model."""
    for name, part in found.parts.items():
        yield f"  {name}", f"{part.tensors:,} tensors ({counts(part.dtypes)})"


def _values(modules: dict[str, int]) -> str:
    """{"32": 260, "16": 4} as "32 in 260 modules, 16 in 4"; a single value alone."""
    return next(iter(modules)) if len(modules) == 1 else ", ".join(f"{value} in {n}" for value, n in modules.items())


def _hashes(found: Inspection) -> list[tuple[str, str]]:
    """Every digest of a file; of several files the sha256 of each."""
    told = [(name, digest) for name, digest in found.hashes or () if digest]
    return told + [(f"sha256 {name}", hashes.sha256 or "") for name, hashes in found.file_hashes.items()]


def _spectrum(audit: Audit | None) -> list[str]:
    """Where the change lies, the modules that stand out most, and what is wrong with some."""
    if audit is None:
        return []
    shares = [f"{part.name} {100 * part.share:.1f} %" for part in audit.blocks]
    worst = sorted(audit.modules, key=lambda one: one.excess or 0.0, reverse=True)[:SHOWN]
    rows: list[tuple[str, ...]] = []
    for one in worst:
        values = (one.norm, one.largest, one.relative, one.excess)
        cells = ("" if value is None else number(value) for value in values)
        rows.append((f"  {one.component}.{one.module}", str(one.rank or ""), f"{one.effective_rank:.1f}",
                     str(one.rank_99), *cells))  # fmt: skip
    return [
        *([f"energy by block: {escape(', '.join(shares))}", *columns([_HEADS, *rows])] if rows else []),
        f"{len(audit.over_scaled)} over-scaled, {len(audit.dead)} dead of {len(audit.modules)} ({audit.rule})",
        *(f"  dead: {escape(name)}" for name in audit.dead[:SHOWN]),
        *(f"  not measured: {escape(one.component)}.{escape(one.module)}: {escape(one.reason)}"
          for one in audit.unmeasured[:SHOWN]),
        *([f"  ... and {len(audit.unmeasured) - SHOWN} more not measured"] if len(audit.unmeasured) > SHOWN else []),
    ]  # fmt: skip


def _listing(found: Inspection) -> list[str]:
    rows = []
    for tensor in found.listing or ():
        module = ".".join(filter(None, (tensor.component, tensor.module)))
        rows.append((f"  {tensor.name}", tensor.dtype, tensor.shape, module, tensor.role or "not recognised"))
    return columns(rows)
