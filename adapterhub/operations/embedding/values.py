"""What the numbers of an embedding say: not finite, zero, or far longer than the tokens that the text encoder knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from adapterhub.adapter import Key, Role
from adapterhub.documents import Problem
from adapterhub.files import Package
from adapterhub.layouts.base import Reading
from adapterhub.layouts.embedding.layout import stem, tokens
from adapterhub.layouts.identity import Identity
from adapterhub.operations.base import base_of
from adapterhub.operations.embedding.faults import is_visible
from adapterhub.operations.problems import error, warning
from adapterhub.tensors import FLOATS, LazyTensor, values

TYPICAL = 0.4
"""The length of a row of CLIP's token embedding, about; a base given says it exactly."""
FAR = 100
"""How many times longer than such a row a vector must be to count as diverged; trained ones of 30 times are in use."""


def value_faults(package: Package, identity: Identity, reading: Reading, base: Path | None) -> Iterator[Problem]:
    """Vector by vector."""
    typical = _typical(reading.architecture, base, package.variant)
    for key, tensor in reading.adapter.tensors.items():
        if tensor.dtype in FLOATS:
            yield from _vectors(key, tensor, typical.get(key.component, TYPICAL))
    for token in tokens(reading.adapter):
        if not is_visible(token):  # an error for `validate` alone: --token mends it
            yield error(
                "unusable-name", token, "no prompt can hold this name", "Rename the file, or convert with --token."
            )
    inside = reading.metadata.get("name")
    if inside and identity.layout and identity.layout.name == "a1111" and inside != stem(package):
        yield warning(
            "name-differs", "name", f"calls itself {inside!r}; A1111 goes by the file's name, {stem(package)!r}"
        )


def _vectors(key: Key, tensor: LazyTensor, typical: float) -> Iterator[Problem]:
    import numpy as np

    rows = np.atleast_2d(values(tensor).astype("f8"))
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        yield error("not-finite", key.module, f"{int((~finite).sum())} of {len(rows)} vectors for {key.component} hold NaN or infinity",
                    "The training diverged: get an earlier file.")  # fmt: skip
        return
    if key.role is Role.OUTPUT_VECTORS:  # added to what the encoder gives: zero is what training begins with
        return
    norms = np.sqrt((rows * rows).sum(axis=1))
    if zeros := int((norms == 0).sum()):
        yield warning("zero-vector", key.module, f"{zeros} of {len(rows)} vectors for {key.component} are zero",
                      "Padding of a conversion, or an encoder that was not trained: adapterhub embedding trim drops the last.")  # fmt: skip
    if (norms > FAR * typical).any():
        yield warning("exploded-norm", key.module,
                      f"a vector for {key.component} is {norms.max():.3g} long, and tokens are about {typical:.2g}",
                      "It outshouts the prompt: adapterhub embedding scale, or an earlier file.")  # fmt: skip


def _typical(architecture: str, base: Path | None, variant: str | None) -> dict[str, float]:
    """The median length of the tokens of each text encoder of the base."""
    if base is None or not architecture:
        return {}
    import numpy as np

    with base_of(base, architecture, variant=variant, whatever=True) as weights:
        tables = {name.partition(".")[0]: tensor for name, tensor in weights.weights.items()
                  if name.endswith("token_embedding.weight")}  # fmt: skip
        return {
            part: float(np.median(np.linalg.norm(values(table).astype("f4"), axis=1))) for part, table in tables.items()
        }
