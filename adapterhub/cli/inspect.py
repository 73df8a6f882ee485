"""adapterhub inspect PATH..."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

import adapterhub
from adapterhub.cli.options import as_json, debug, paths
from adapterhub.cli.paths import each
from adapterhub.cli.terminal import columns, counts, problems

if TYPE_CHECKING:
    from adapterhub.documents import Inspection


@click.command("inspect")
@paths
@as_json
@click.option("--hash", "hashed", is_flag=True, help="Read the whole file: digests and fingerprint.")
@click.option("--tensors", is_flag=True, help="List every tensor and what it was taken for.")
@debug
def command(paths: tuple[Path, ...], as_json: bool, hashed: bool, tensors: bool) -> int:
    return each(paths, lambda path: adapterhub.inspect(path, hash=hashed, tensors=tensors), describe, as_json=as_json)


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
        ("ranks", _values(found.ranks)),
        ("alphas", _values(found.alphas)),
        ("tokens", ", ".join(f"{token.token} ({token.vectors})" for token in found.tokens)),
        ("structure", ", ".join(f"{name} {value}" for name, value in (found.structure or {}).items())),
        ("tensors", f"{found.tensors:,} ({counts(found.dtypes)}), {found.parameters:,} numbers, {found.size:,} bytes"),
        ("metadata", f"{len(found.metadata)} fields" if found.metadata else ""),
        ("fingerprint", found.fingerprint or ""),
        *_hashes(found),
    ]
    return columns([row for row in rows if row[1]]) + _listing(found) + problems(found.problems)


def _values(modules: dict[str, int]) -> str:
    """{"32": 260, "16": 4} as "32 in 260 modules, 16 in 4"; a single value alone."""
    return next(iter(modules)) if len(modules) == 1 else ", ".join(f"{value} in {n}" for value, n in modules.items())


def _hashes(found: Inspection) -> list[tuple[str, str]]:
    return [(name, digest) for name, digest in found.hashes or () if digest]


def _listing(found: Inspection) -> list[str]:
    rows = []
    for tensor in found.listing or ():
        module = ".".join(filter(None, (tensor.component, tensor.module)))
        rows.append((f"  {tensor.name}", tensor.dtype, tensor.shape, module, tensor.role or "not recognised"))
    return columns(rows)
