"""What an adapter does to one module, sorted by what it takes: a product or a table that numpy adds, or torch for the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from adapterhub.adapter import Role, Roles
from adapterhub.algorithms import algorithm_of, label, scale_of, total_scale
from adapterhub.operations.merge.scratch import scratch
from adapterhub.tensors import LazyTensor, recast, values

if TYPE_CHECKING:
    import numpy as np

R = Role

_SCALES = frozenset({R.ALPHA, R.SCALE, R.SCALAR})
BIASES = frozenset({R.DIFF_B, R.UP_BIAS, R.B_NORM})
"""What is added to the bias of a layer."""
_PRODUCT = frozenset({R.UP, R.DOWN}) | _SCALES | BIASES
_TABLES = (R.DIFF, R.W_NORM)


@dataclass(frozen=True)
class Term:
    """The tensors of one adapter for one module, and how much of them is wanted; terms that only add are summed in the order
    of `rank`, which depends on the adapter and not on its place in the command. What was `folded` was computed from what
    the terms before it made.
    """

    roles: Roles
    strength: float
    rank: tuple[str, float]
    folded: bool = False

    @property
    def changes_weight(self) -> bool:
        return bool(self.roles.keys() - BIASES - _SCALES)

    @property
    def changes_bias(self) -> bool:
        return not BIASES.isdisjoint(self.roles) or R.IA3_L in self.roles

    @property
    def adds(self) -> bool:
        """Whether the change is the adapter's alone, so that order does not matter and subtracting undoes it."""
        algorithm = algorithm_of(self.roles)
        relative = algorithm is None or algorithm.needs_base
        return not (relative or R.DORA_SCALE in self.roles or R.SET_WEIGHT in self.roles)

    @property
    def commutes(self) -> bool:
        """Whether the order of adapters does not matter to it."""
        return self.adds and not self.folded

    @property
    def title(self) -> str:
        """What people call it."""
        algorithm = algorithm_of(self.roles)
        return "a hypernetwork" if self.folded else "an unknown" if algorithm is None else label(self.roles, algorithm)

    @property
    def bias_adds(self) -> bool:
        return R.IA3_L not in self.roles


class Change(Protocol):
    """A change that is added, as rows of the weight seen as a matrix."""

    columns: int

    def rows(self, start: int, stop: int, out: np.ndarray) -> None:
        """Puts some of its rows into `out`, in float64."""


class Product:
    """B·A of all plain pairs of a module at once: their factors side by side, each B times its scale and strength."""

    def __init__(self, terms: Sequence[Term]) -> None:
        ranks = [term.roles[R.DOWN].shape[0] for term in terms]
        first, rank = terms[0].roles, sum(ranks)
        self.columns = math.prod(first[R.DOWN].shape[1:])
        self._up = scratch("up", (first[R.UP].shape[0], rank), "<f8")
        self._down = scratch("down", (rank, self.columns), "<f8")
        at = 0
        for term, count in zip(terms, ranks, strict=True):
            up, down = self._up[:, at : at + count], self._down[at : at + count]
            up[...] = _narrow(term.roles[R.UP]).reshape(up.shape)
            up *= float(total_scale(term.roles)) * term.strength
            down[...] = _narrow(term.roles[R.DOWN]).reshape(down.shape)
            at += count

    def rows(self, start: int, stop: int, out: np.ndarray) -> None:
        import numpy as np

        np.matmul(self._up[start:stop], self._down, out=out)


class Table:
    """A difference that is stored as it is."""

    def __init__(self, difference: np.ndarray, strength: float) -> None:
        self._difference, self._strength = difference, strength
        self.columns = difference.shape[1]

    def rows(self, start: int, stop: int, out: np.ndarray) -> None:
        import numpy as np

        np.multiply(self._difference[start:stop], self._strength, out=out, dtype="<f8")


def changes(terms: Sequence[Term]) -> list[Change]:
    """What terms that add do to a weight, together; torch is imported where numpy does not do."""
    ordered = sorted(terms, key=lambda term: term.rank)
    pairs = [term for term in ordered if _is_pair(term.roles)]
    made: list[Change] = [Product(pairs)] if pairs else []
    return [*made, *(_table(term) for term in ordered if term not in pairs)]


def applied(weight: np.ndarray, term: Term) -> np.ndarray:
    """W + strength · (W′ − W) of a term that does not only add; float64, in the shape of `weight`."""
    import torch

    from adapterhub.operations.lora import deltas

    made: np.ndarray = deltas.delta(term.roles).apply(torch.from_numpy(weight), term.strength).numpy()
    return made


def bias(stored: np.ndarray, terms: Sequence[Term]) -> np.ndarray:
    """The bias with every change of `terms` in their order; float64."""
    made = stored
    for term in terms:
        made = made + term.strength * _bias(term, made)
    return made


def _is_pair(roles: Roles) -> bool:
    return {R.UP, R.DOWN} <= roles.keys() <= _PRODUCT


def _table(term: Term) -> Table:
    for role in _TABLES:
        if role in term.roles:
            stored = values(term.roles[role])
            return Table(stored.reshape(stored.shape[0], -1), term.strength)
    from adapterhub.operations.lora import deltas

    made = deltas.delta(term.roles).matrix().numpy()
    return Table(made.reshape(made.shape[0], -1), term.strength)


def _bias(term: Term, now: np.ndarray) -> np.ndarray | float:
    roles = term.roles
    if R.IA3_L in roles:
        import torch

        from adapterhub.operations.lora import deltas

        found = deltas.delta(roles).bias(torch.from_numpy(now))
        return 0.0 if found is None else found.numpy()
    made: np.ndarray | float = 0.0
    for role in (R.DIFF_B, R.B_NORM):
        if role in roles:
            made = made + _wide(roles[role]).reshape(now.shape)
    if R.UP_BIAS in roles:
        made = made + _wide(roles[R.UP_BIAS]).reshape(now.shape) * float(scale_of(roles))
    return made


def _wide(tensor: LazyTensor) -> np.ndarray:
    """The values in float64."""
    return _narrow(tensor).astype("<f8")


def _narrow(tensor: LazyTensor) -> np.ndarray:
    """The values in no less than float32, which is quickly made float64."""
    found = values(tensor)
    return recast(found, "float32") if tensor.dtype == "F16" else found
