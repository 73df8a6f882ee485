"""Arithmetic of embeddings: weighted sums, concatenation, scaling and trimming of vectors, in float64 and rounded once.

The operations and what they are called are those that users know from A1111's extension embedding-merge
(klimaleksus/stable-diffusion-webui-embedding-merge, README, "Expression syntax"): of a sum, the shorter is padded with zeros
on the right; vectors that are cut off are the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from adapterhub.adapter import Adapter, Key, Role
from adapterhub.errors import RefusedInput, UsageError
from adapterhub.layouts.embedding.layout import tokens
from adapterhub.metadata import utf8
from adapterhub.operations.ledger import Ledger
from adapterhub.tensors import LazyTensor, from_bytes, stack_rows, values

if TYPE_CHECKING:
    import numpy as np

_FLOAT8 = frozenset({"F8_E4M3", "F8_E5M2"})
_HOLDS = {"F16": _FLOAT8 | {"F16"}, "BF16": _FLOAT8 | {"BF16"}, "F32": _FLOAT8 | {"F16", "BF16", "F32"},
          "F64": _FLOAT8 | {"F16", "BF16", "F32", "F64"}}  # fmt: skip
"""The narrowest first: dtypes whose every value each holds exactly."""
_NUMPY = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}


class Part(NamedTuple):
    """One embedding of a merge: the `token` that it has in the adapter, and what it is called in reasons."""

    token: str
    name: str
    weight: float


@dataclass(frozen=True)
class Changed:
    """The result, the largest relative error of its rounding, and whether values were cast to a dtype that cannot hold them."""

    adapter: Adapter
    error: float = 0.0
    approximate: bool = False


def parts(adapter: Adapter, paths: Sequence[Path], weights: Sequence[float]) -> list[Part]:
    """The embeddings from `paths` in an adapter that they are joined in. RefusedInput where one has several tokens."""
    found: dict[int, list[str]] = {}
    for token in tokens(adapter):
        found.setdefault(number(token), []).append(token)
    for path, held in zip(paths, found.values(), strict=True):
        if len(held) > 1:
            raise RefusedInput(f"{path} holds {len(held)} tokens, and each would be merged otherwise",
                               mend="adapterhub convert --to kohya -o DIR/ writes a file of each: merge these.")  # fmt: skip
    return [Part(held[0], path.name, weight) for path, held, weight in zip(paths, found.values(), weights, strict=True)]


def labelled(number: int, token: str) -> str:
    """What the `token` of an input is called among those of all."""
    return f"{number}:{token}"


def number(token: str) -> int:
    """Of which input a labelled token is."""
    return int(token.partition(":")[0])


def summed(adapter: Adapter, parts: Sequence[Part], token: str, dtype: str | None, ledger: Ledger) -> Changed:
    """Σ weight · vectors, row by row for each text encoder; a part with fewer rows is as if zeros followed."""
    found = _Rounding(adapter, dtype)
    for key, sources in _together(adapter, parts, token):
        tensors = [adapter.tensors[source] for source in sources]
        rows = max(tensor.shape[0] for tensor in tensors)
        terms = (part.weight * _padded(tensor, rows) for part, tensor in zip(parts, tensors, strict=True))
        found.put(key, reduce(add, terms), tensors)
        padded = "".join(f"; {part.name} has {tensor.shape[0]} of {rows} rows, and zeros follow"
                         for part, tensor in zip(parts, tensors, strict=True) if tensor.shape[0] < rows)  # fmt: skip
        ledger.replace(sources, [key], "compute", utf8(" + ".join(map(_term, parts)) + padded))
    return found.changed()


def concatenated(adapter: Adapter, parts: Sequence[Part], token: str, dtype: str | None, ledger: Ledger) -> Changed:
    """The rows of one part after those of the other; where no weight and no dtype changes a value, bytes are joined."""
    found = _Rounding(adapter, dtype)
    for key, sources in _together(adapter, parts, token):
        tensors = [adapter.tensors[source] for source in sources]
        rows = ", ".join(f"{tensor.shape[0]} of {_term(part)}" for part, tensor in zip(parts, tensors, strict=True))
        if {part.weight for part in parts} == {1.0} and {tensor.dtype for tensor in tensors} == {found.dtype(tensors)}:
            found.tensors[key] = stack_rows(tensors)
            ledger.replace(sources, [key], "join", f"rows: {rows}")
        else:
            found.put(key, _stack([part.weight * _exact(t) for part, t in zip(parts, tensors, strict=True)]), tensors)
            ledger.replace(sources, [key], "compute", f"rows: {rows}")
    return found.changed()


def scaled(adapter: Adapter, factor: float, dtype: str | None, ledger: Ledger) -> Changed:
    """Every vector times `factor`."""
    found = _Rounding(adapter, dtype)
    for key, tensor in adapter.tensors.items():
        found.put(key, factor * _exact(tensor), [tensor])
        ledger.replace([key], [key], "compute", f"times {factor:.9g}")
    return found.changed()


def at_length(adapter: Adapter, length: float, dtype: str | None, ledger: Ledger) -> Changed:
    """Every input vector at the Euclidean `length`. RefusedInput for a vector that has no direction."""
    found = _Rounding(adapter, dtype)
    for key, tensor in adapter.tensors.items():
        exact = _exact(tensor)
        found.put(key, _at_length(exact, length, key) if key.role is Role.VECTORS else exact, [tensor])
        reason = f"to the length {length:.9g}" if key.role is Role.VECTORS else "output vectors stay"
        ledger.replace([key], [key], "compute", reason)
    return found.changed()


def _at_length(rows: np.ndarray, length: float, key: Key) -> np.ndarray:
    lengths = (rows * rows).sum(axis=1, keepdims=True) ** 0.5
    if not ((lengths > 0) & (lengths < math.inf)).all():
        raise RefusedInput(f"{key.module}: a vector for {key.component} is zero or not finite, and has no direction",
                           mend="adapterhub embedding trim leaves vectors out; a factor scales without a direction.")  # fmt: skip
    at_length: np.ndarray = rows * (length / lengths)
    return at_length


def trimmed(adapter: Adapter, first: int, last: int, ledger: Ledger) -> Changed:
    """The vectors from `first` to `last`, counted from 1, both included. UsageError where there are not as many."""
    tensors = dict(adapter.tensors)
    for key, tensor in tensors.items():
        rows = tensor.shape[0]
        if last > rows:
            raise UsageError(f"{key.module} has {rows} vectors for {key.component}, and {last} were asked for",
                             mend=f"Give --vectors {rows} at most.")  # fmt: skip
        if last - first + 1 < rows:
            tensors[key] = tensor.split_rows([first - 1, last - first + 1, rows - last])[1]
            ledger.replace([key], [key], "split", f"vectors {first} to {last} of {rows}")
    return Changed(adapter.with_tensors(tensors))


def _together(adapter: Adapter, parts: Sequence[Part], token: str) -> Iterator[tuple[Key, list[Key]]]:
    """For each text encoder the key of the result and those of the parts. RefusedInput where the parts are for different ones."""
    first, *others = [_encoders(adapter, part.token) for part in parts]
    for part, other in zip(parts[1:], others, strict=True):
        if other != first:
            raise RefusedInput(f"{parts[0].name} has vectors for {_named(first)}, {part.name} for {_named(other)}",
                               mend="Only embeddings for the same text encoders can be merged.")  # fmt: skip
    for component, role in first:
        yield Key(component, token, role), [Key(component, part.token, role) for part in parts]


def _encoders(adapter: Adapter, token: str) -> dict[tuple[str, Role], int]:
    """The widths by text encoder and role."""
    held = {key: tensor for key, tensor in adapter.tensors.items() if key.module == token}
    return {(key.component, key.role): tensor.shape[1] for key, tensor in held.items()}


def _named(encoders: dict[tuple[str, Role], int]) -> str:
    return " and ".join(
        f"{component} ({width}{', behind it' if role is Role.OUTPUT_VECTORS else ''})"
        for (component, role), width in sorted(encoders.items())
    )


class _Rounding:
    """The tensors of a result, each computed in float64 and rounded once to `dtype` or, without one, to that of its parts."""

    def __init__(self, adapter: Adapter, dtype: str | None) -> None:
        self._adapter, self._dtype = adapter, dtype
        self._error, self._approximate = 0.0, False
        self.tensors: dict[Key, LazyTensor] = {}

    def dtype(self, parts: Sequence[LazyTensor]) -> str:
        """The dtype of a result of `parts`."""
        return self._dtype or _widest({part.dtype for part in parts})

    def put(self, key: Key, exact: np.ndarray, parts: Sequence[LazyTensor]) -> None:
        """Rounds `exact`, made of `parts`. RefusedInput where a number becomes too large for the dtype."""
        dtype = self.dtype(parts)
        self.tensors[key] = _rounded(exact, dtype)
        self._approximate |= not {part.dtype for part in parts} <= _HOLDS.get(dtype, {dtype})
        self._error = max(self._error, _error(self.tensors[key], exact, key))

    def changed(self) -> Changed:
        """The result of all that was put."""
        return Changed(self._adapter.with_tensors(self.tensors), self._error, self._approximate)


def _widest(dtypes: set[str]) -> str:
    """The narrowest dtype that holds the values of all `dtypes`; F16 and BF16 together need F32."""
    return dtypes.pop() if len(dtypes) == 1 else next(dtype for dtype, held in _HOLDS.items() if dtypes <= held)


def _rounded(exact: np.ndarray, dtype: str) -> LazyTensor:
    """`exact`, float64, rounded half to even."""
    import numpy as np

    if dtype in _NUMPY:
        with np.errstate(over="ignore"):
            return from_bytes(dtype, exact.shape, exact.astype(_NUMPY[dtype]).tobytes())
    import torch

    from adapterhub.operations.lora import deltas

    return deltas.lazy(torch.from_numpy(exact), dtype)


def _error(rounded: LazyTensor, exact: np.ndarray, key: Key) -> float:
    """max|rounded - exact| / max|exact|; what was not finite before is left out."""
    import numpy as np

    finite = np.isfinite(exact)
    wanted, given = exact[finite], _exact(rounded)[finite]
    if not np.isfinite(given).all():
        raise RefusedInput(f"{key.module}: a number for {key.component} becomes too large for {rounded.dtype}",
                           mend="Give --dtype fp32, or a smaller factor.")  # fmt: skip
    largest = float(np.abs(wanted).max(initial=0.0))
    furthest = float(np.abs(given - wanted).max(initial=0.0))
    return furthest / largest if largest else 0.0


def _exact(tensor: LazyTensor) -> np.ndarray:
    return values(tensor).astype("f8")


def _padded(tensor: LazyTensor, rows: int) -> np.ndarray:
    import numpy as np

    return np.pad(_exact(tensor), ((0, rows - tensor.shape[0]), (0, 0)))


def _stack(terms: list[np.ndarray]) -> np.ndarray:
    import numpy as np

    return np.concatenate(terms)


def _term(part: Part) -> str:
    return part.name if part.weight == 1 else f"{part.weight:.9g} · {part.name}"
