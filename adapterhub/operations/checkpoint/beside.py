"""What stands beside the weights of two whole models, compared bit for bit and without holding any of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from adapterhub.adapter import Adapter
from adapterhub.documents import ExtraDifference
from adapterhub.layouts.checkpoint.aside import ASIDE, MARKER, Extra, extra_of
from adapterhub.operations.checkpoint.difference import same_bytes
from adapterhub.tensors import LazyTensor

Fate = Literal["only_in_a", "only_in_b", "changed"]


def beside(a: Adapter, b: Adapter) -> Iterator[ExtraDifference]:
    """Every tensor beside the weights that is not in both with the same bits."""
    for held in dict.fromkeys(key for model in (a, b) for key in model.tensors if key.component == ASIDE):
        if (fate := _fate(a.tensors.get(held), b.tensors.get(held))) is not None:
            extra = extra_of(held.module)
            yield ExtraDifference(name=held.module, extra=extra.name, fate=fate, counts=_counts(extra, fate))


def _fate(a: LazyTensor | None, b: LazyTensor | None) -> Fate | None:
    if a is None or b is None:
        return "only_in_b" if a is None else "only_in_a"
    return None if a.shape == b.shape and same_bytes(a, b) else "changed"


def _counts(extra: Extra, fate: Fate) -> bool:
    """Whether images may come out otherwise; what a stranger left beside one of both is known to no reader."""
    return not extra.neutral and (extra.name == MARKER or fate == "changed")
