"""What roles, dtypes and shapes of all modules tell. Files of one trainer have them in common, and it is found out once: from
tensors that have no bytes, so that it cannot depend on anything else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import NamedTuple

from adapterhub.adapter import Module, Role, Roles
from adapterhub.algorithms import algorithm_of, label, rank_of
from adapterhub.operations.lora.module_faults import is_plain
from adapterhub.tensors import LazyTensor, Shape


class Outlined(NamedTuple):
    """Modules by algorithm, component and rank, and whether all are plain. Not to be changed: files share it."""

    algorithms: Mapping[str, int]
    components: Mapping[str, int]
    ranks: Mapping[str, int]
    plain: bool


def outlined(modules: Mapping[Module, Roles]) -> Outlined:
    """What the modules tell without their numbers."""
    tensors = list(chain.from_iterable([roles.values() for roles in modules.values()]))
    roles = tuple(map(tuple, modules.values()))
    return _outlined(tuple(modules), roles, tuple(map(_DTYPE, tensors)), tuple(map(_SHAPE, tensors)))


_DTYPE: Callable[[LazyTensor], str] = attrgetter("dtype")
_SHAPE: Callable[[LazyTensor], Shape] = attrgetter("shape")


@lru_cache(maxsize=16)
def _outlined(
    modules: tuple[Module, ...], roles: tuple[tuple[Role, ...], ...], dtypes: tuple[str, ...], shapes: tuple[Shape, ...]
) -> Outlined:
    tensors = iter([LazyTensor(dtype, shape, tuple) for dtype, shape in zip(dtypes, shapes, strict=True)])
    rows = [{role: next(tensors) for role in held} for held in roles]
    changed = [(module.component, held) for module, held in zip(modules, rows, strict=True) if Role.VECTORS not in held]
    ranks = Counter([rank_of(held) for _, held in changed])
    return Outlined(
        Counter([_label(held) for _, held in changed]),
        Counter([component for component, _ in changed]),
        {str(rank): count for rank, count in ranks.items() if rank is not None},
        all(map(is_plain, rows)),
    )


def _label(roles: Roles) -> str:
    algorithm = algorithm_of(roles)
    return label(roles, algorithm) if algorithm else "unknown"
