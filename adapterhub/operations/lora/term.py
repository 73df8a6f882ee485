"""One of the terms of a sum: what one input does to a module, and its weight."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from adapterhub.adapter import Role, Roles
from adapterhub.algorithms import total_scale
from adapterhub.errors import BrokenAdapter, RefusedInput
from adapterhub.operations.lora import deltas
from adapterhub.operations.lora.deltas.truncation import Pair

R = Role
_BEYOND_F32 = 1 << 128
_BELOW_F32 = Fraction(1, 1 << 126)
"""Between these F32 holds a strength with all of its digits."""


class Term(NamedTuple):
    """What one input does to a module: its `number`, the `name` of its file, its weight."""

    number: int
    name: str
    weight: float
    tensors: Roles

    @property
    def is_embedding(self) -> bool:
        return not {R.VECTORS, R.OUTPUT_VECTORS}.isdisjoint(self.tensors)

    @property
    def scale(self) -> Fraction:
        """weight · alpha / rank. BrokenAdapter, RefusedInput."""
        scale = total_scale(self.tensors)
        if not isinstance(scale, Fraction):
            raise BrokenAdapter(f"{self.name}: a scale of {scale} is no number to go on with")
        strength = Fraction(self.weight) * scale
        if strength and not _BELOW_F32 <= abs(strength) < _BEYOND_F32:
            nearer = "larger weight, or 0" if abs(strength) < 1 else "smaller weight"
            raise RefusedInput(f"{self}: F32 does not hold such a strength", mend=f"Use a {nearer}.")
        return strength

    @property
    def rank(self) -> int:
        """Of what is a product."""
        return self.tensors[R.DOWN].shape[0] if R.DOWN in self.tensors else self.pair().rank

    def pair(self) -> Pair:
        """The two matrices of what is a product, without its scale."""
        pair = deltas.delta(self.tensors).pair()  # type: ignore[attr-defined] # has_pair has said so
        assert isinstance(pair, Pair)
        return pair

    def __str__(self) -> str:
        return self.name if self.weight == 1 else f"{self.weight:.9g} · {self.name}"
