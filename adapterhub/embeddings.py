"""Tools for embeddings (textual inversion), each returning the document that `adapterhub embedding NAME --json` prints.

from adapterhub import embeddings

embeddings.merge([("cat.pt", 0.5), ("dog.pt", 0.5)], "pet.safetensors").exactness      # "exact"
embeddings.nearest("pet.safetensors", base="stable-diffusion-v1-5").vectors[0].nearest[0].token      # "cat"
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from adapterhub.adapter import Adapter
from adapterhub.documents import Conversion
from adapterhub.errors import UnknownName, UsageError
from adapterhub.operations.embedding.combine import (
    Changed,
    at_length,
    concatenated,
    parts,
    scaled,
    summed,
    trimmed,
)
from adapterhub.operations.embedding.nearest import nearest
from adapterhub.operations.embedding.rework import Output, rework
from adapterhub.operations.ledger import Ledger
from adapterhub.operations.recipe import recorded

__all__ = ["merge", "nearest", "scale", "trim"]

_METHODS = {"sum": summed, "concat": concatenated}


@recorded("embedding merge", "embeddings")
def merge(
    embeddings: Sequence[Path | str | tuple[Path | str, float]],
    target: Path | str,
    *,
    method: str = "sum",
    to: str | None = None,
    for_tool: str | None = None,
    token: str | None = None,
    dtype: str | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> Conversion:
    """Writes one embedding made of several, each a path or (path, weight), to `target`.

    `method` "sum" adds weight · vectors, row by row for each text encoder, zeros standing for the rows that one lacks;
    "concat" puts the rows one after another, each times its weight. Computed in float64 and rounded once, to `dtype`
    ("fp32", "fp16", "bf16") or to the narrowest that holds the dtypes of all. The layout is `to`, or what `for_tool` reads,
    or the first embedding's own; the token is `token`, or the name of the file.

    Raises RefusedInput where text encoders differ, a file holds several tokens, or a number becomes too large for the dtype.
    """
    if method not in _METHODS:
        raise UnknownName("method", method, tuple(_METHODS))
    pairs = [given if isinstance(given, tuple) else (given, 1.0) for given in embeddings]
    if not pairs or not all(math.isfinite(weight) for _, weight in pairs):
        raise UsageError("merging takes one embedding or more, and finite weights")
    paths, weights = [Path(path) for path, _ in pairs], [float(weight) for _, weight in pairs]

    def change(adapter: Adapter, ledger: Ledger, dtype: str | None) -> Changed:
        return _METHODS[method](adapter, parts(adapter, paths, weights), token or Path(target).stem, dtype, ledger)

    output = Output(target, to, for_tool, token, dtype, dry_run, force)
    return rework("embedding merge", paths, output, change, joined=True)


@recorded("embedding scale", "source")
def scale(
    source: Path | str,
    target: Path | str,
    factor: float | None = None,
    *,
    to_norm: float | None = None,
    to: str | None = None,
    for_tool: str | None = None,
    token: str | None = None,
    dtype: str | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> Conversion:
    """Writes the embedding at `source` to `target` with every vector times `factor`, or at the Euclidean length `to_norm`.

    Computed in float64 and rounded once: exact for powers of two. Layout, token and dtype: see `merge`. Raises RefusedInput
    where a number becomes too large for the dtype, or a vector without direction is to have a length.
    """
    if (factor is None) == (to_norm is None):
        raise UsageError("say how long the vectors are to be", mend="Give either FACTOR or --to-norm N.")
    operation, value = (scaled, factor) if factor is not None else (at_length, to_norm)
    if value is None or not math.isfinite(value) or (operation is at_length and value <= 0):
        raise UsageError(f"{value} is no factor or no length", mend="Give a finite factor, or a length above 0.")

    def change(adapter: Adapter, ledger: Ledger, dtype: str | None) -> Changed:
        return operation(adapter, value, dtype, ledger)

    return rework("embedding scale", [Path(source)], Output(target, to, for_tool, token, dtype, dry_run, force), change)


@recorded("embedding trim", "source")
def trim(
    source: Path | str,
    target: Path | str,
    vectors: int | tuple[int, int],
    *,
    to: str | None = None,
    for_tool: str | None = None,
    token: str | None = None,
    dry_run: bool = False,
    force: bool = False,
) -> Conversion:
    """Writes the embedding at `source` to `target` with its first `vectors`, or those from the first number to the second.

    Vectors are counted from 1, both numbers included, and the bytes of those that stay do not change. Layout and token: see
    `merge`. Raises UsageError where a text encoder has fewer vectors.
    """
    first, last = (1, vectors) if isinstance(vectors, int) else vectors
    if not 1 <= first <= last:
        raise UsageError(f"there are no vectors {first} to {last}", mend="Vectors are counted from 1.")

    def change(adapter: Adapter, ledger: Ledger, dtype: str | None) -> Changed:
        return trimmed(adapter, first, last, ledger)

    output = Output(target, to, for_tool, token, None, dry_run, force)
    return rework("embedding trim", [Path(source)], output, change, forgiven=("unequal-vectors",))
